"""comparison.py: what B has over A, by hand; the statistics themselves are bootstrap's tests."""

import pytest

from captioner import CaptionerError
from captioner.comparison import compare, shared_references
from captioner.metrics import MEASURES, caption_scores

REFERENCES = {
    "dog": ["a dog runs in the snow", "a brown dog runs"],
    "cat": ["a cat sleeps on a chair", "the cat is asleep"],
    "man": ["a man rides a red bike", "a cyclist on a red bike"],
    "sea": ["waves roll onto a beach", "the sea at a sandy beach"],
}
FIRST = {"dog": "a dog runs", "cat": "a dog", "man": "a man", "sea": "a beach"}
SECOND = {"sea": "the sea", "man": "a man", "cat": "a cat sleeps on a chair", "dog": "a cat"}


def test_what_makes_a_comparison_meaningless_is_said_of_either_side():
    references = {"1": ["一个男人在骑马"], "2": ["一只黑猫在睡觉"]}
    first, second = {"1": "男人在骑马", "2": ""}, {"1": "一个男人骑马", "2": "一只黑猫"}
    warnings = compare(references, first, second).warnings
    assert [line.split(" ")[0] for line in warnings] == ["A:", "A:", "B:"]
    assert warnings[0] == "A: 1 of 2 hypotheses have no word and score 0"
    assert all("Chinese or Japanese without blanks" in line for line in warnings[1:])
    found = compare(references, first, second, split_characters=True)
    assert found.warnings == warnings[:1]
    assert found.scores["bleu_1"][1] > 0.4
    same = {image_id: group[0] for image_id, group in references.items()}
    assert "B: every hypothesis is one of" in compare(references, first, same).warnings[-1]


def test_scores_and_changes_by_hand():
    found = compare(REFERENCES, FIRST, SECOND)
    assert found.warnings == []
    assert (found.pictures, found.same_captions) == (4, 1)
    a, b = (
        caption_scores(list(REFERENCES.values()), [side[i] for i in REFERENCES])
        for side in (FIRST, SECOND)
    )
    assert found.scores == {name: (a.corpus[name], b.corpus[name]) for name in MEASURES}
    for name, by in found.differences.items():
        assert by.value == pytest.approx(b.corpus[name] - a.corpus[name])
        assert by.low <= by.value <= by.high
    # the cat gained most, the dog lost; the man's caption is the same
    by = b.cider_d - a.cider_d
    assert [change.image_id for change in found.changes] == sorted(
        ["dog", "cat", "sea"], key=lambda i: -abs(by[list(REFERENCES).index(i)])
    )
    assert found.changes[0].image_id == "cat"
    assert found.changes[0].captions == ("a dog", "a cat sleeps on a chair")
    assert found.changes[0].cider_d == (a.cider_d[1], b.cider_d[1])
    assert found.changes[0].references == REFERENCES["cat"]


def test_the_other_way_round_is_the_opposite():
    there, back = compare(REFERENCES, FIRST, SECOND), compare(REFERENCES, SECOND, FIRST)
    for name, by in there.differences.items():
        assert by.value == pytest.approx(-back.differences[name].value)
    assert [c.captions[::-1] for c in there.changes] == [c.captions for c in back.changes]


def test_as_many_changes_as_wanted():
    assert len(compare(REFERENCES, FIRST, SECOND, changes=2).changes) == 2
    assert compare(REFERENCES, FIRST, SECOND, changes=0).changes == []
    assert compare(REFERENCES, FIRST, FIRST).changes == []
    assert compare(REFERENCES, FIRST, FIRST).same_captions == 4


def test_references_must_be_the_same():
    shuffled = {i: REFERENCES[i][::-1] for i in ("cat", "dog")} | {"new": ["a new one"]}
    assert shared_references(REFERENCES, shuffled) == {i: REFERENCES[i] for i in ("dog", "cat")}
    with pytest.raises(CaptionerError, match="picture cat: its references differ between A and B"):
        shared_references(REFERENCES, shuffled | {"cat": ["a cat"]})
    with pytest.raises(CaptionerError, match="no picture in common"):
        shared_references(REFERENCES, {"other": ["a thing"]})
