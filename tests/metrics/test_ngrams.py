"""ngrams.py: counts and look-ups in numpy against the same counted one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.metrics.ngrams import ReferenceNGrams, ranges

CAPTION = st.lists(st.sampled_from("abcd"), max_size=7)
REFERENCES = st.lists(st.lists(CAPTION, min_size=1, max_size=3), min_size=1, max_size=4)


def grams(tokens):
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, 5)
        for start in range(len(tokens) - order + 1)
    )


def test_by_hand():
    known = ReferenceNGrams([[["a", "b", "a"], ["b"]], [["b", "c"]]])
    # a, b, c; ab, ba, bc; aba
    assert known.distinct == 7 and known.order.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert known.document_frequency.tolist() == [1, 2, 1, 1, 1, 1, 1]
    assert known.lengths.tolist() == [3, 1, 2] and known.first.tolist() == [0, 2, 3]

    found = known.match([["b", "b", "x"], ["a", "b", "c"]])
    first = found.hypothesis == 0
    # b twice; bb, bx and bbx are no reference's, as is x
    assert sorted(found.count[first].tolist()) == [1, 1, 1, 1, 2]
    assert (found.ngram[first] >= known.distinct).sum() == 4
    assert (found.group[first] >= 0).sum() == 1
    # of the second picture's references only b, c and bc; a and ab are those of the first
    second = found.hypothesis == 1
    assert (found.group[second] >= 0).sum() == 3
    assert (found.ngram[second] < known.distinct).sum() == 5  # abc is new
    assert found.pair_hypothesis.tolist() == [0, 0, 1]
    assert found.pair_reference.tolist() == [0, 1, 2]
    assert found.first_pair.tolist() == [0, 2]


@settings(deadline=None)
@given(REFERENCES, st.data())
def test_equals_counting_one_by_one(references, data):
    known = ReferenceNGrams(references)
    pictures = data.draw(st.lists(st.integers(0, len(references) - 1), max_size=5))
    texts = st.lists(st.sampled_from("abcdxy"), max_size=7)
    hypotheses = [data.draw(texts) for _ in pictures]
    found = known.match(hypotheses, pictures)
    frequency = Counter(
        gram for group in references for gram in set().union(*(grams(c) for c in group))
    )
    assert known.distinct == len(frequency)
    assert sorted(known.document_frequency.tolist()) == sorted(frequency.values())
    for number, (hypothesis, picture) in enumerate(zip(hypotheses, pictures, strict=True)):
        mine = found.hypothesis == number
        own = grams(hypothesis)
        assert sorted(found.count[mine].tolist()) == sorted(own.values())
        assert Counter(found.order[mine].tolist()) == Counter(len(gram) - 1 for gram in own)
        held = [grams(reference) for reference in references[picture]]
        most = sorted(max(counts[gram] for counts in held) for gram in own)
        groups = found.group[mine]
        clipped = [int(known.group_most[group]) if group >= 0 else 0 for group in groups]
        assert sorted(clipped) == most
        # each entry of a group is a reference of this picture with that count
        for group, order in zip(groups, found.order[mine], strict=True):
            if group >= 0:
                entries = range(known.group_start[group], known.group_start[group + 1])
                for entry in entries:
                    place = known.reference[entry] - known.first[picture]
                    assert 0 <= place < len(held)
                    assert known.order[known.ngram[entry]] == order
                    assert known.count[entry] in held[place].values()


def test_words_and_their_numbers_are_counted_alike():
    words = [[["a", "b"], ["c"]], [["a"]]]
    numbers = [[[7, 9], [2]], [[7]]]
    one = ReferenceNGrams(words).match([["a", "b", "z"], ["c"]])
    other = ReferenceNGrams(numbers).match([[7, 9, 0], [2]])
    for name in vars(one):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name


def test_nothing_to_find():
    known = ReferenceNGrams([[[]], [[]]])
    assert known.distinct == 0
    found = known.match([["a"], []])
    assert found.group.tolist() == [-1] and found.lengths.tolist() == [1, 0]
    assert known.match([], []).count.tolist() == []


def test_wrong_input():
    with pytest.raises(CaptionerError, match="picture 1 has no reference"):
        ReferenceNGrams([[["a"]], []])
    with pytest.raises(CaptionerError, match="1 captions for 2 pictures; give one for each"):
        ReferenceNGrams([[["a"]], [["b"]]]).match([["a"]])


def test_ranges():
    starts, lengths = np.array([5, 0, 9]), np.array([2, 0, 3])
    assert ranges(starts, lengths).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], int), np.array([], int)).tolist() == []
