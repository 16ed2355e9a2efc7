"""All scores together: the reference's own numbers, and the floor and the ceiling by hand."""

import contextlib
import gzip
import io
import json
import warnings

import numpy as np
import pytest

from captioner import CaptionerError
from captioner.metrics import MEASURES, CaptionScorer, caption_scores, constant_floor, mean_scores
from captioner.metrics.tokenizer import tokenize, tokenize_all


def test_golden_tokens(shared):
    path = shared / "metrics" / "ptb_tokens.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        pairs = [line.rstrip("\n").split("\t") for line in file]
    assert len(pairs) == 34_822
    wrong = [(caption, want) for caption, want in pairs if " ".join(tokenize(caption)) != want]
    assert wrong == []
    # in a file, a caption before another: the few that depend on it are none of these
    together = map(" ".join, tokenize_all([caption for caption, _ in pairs]))
    wrong = [(pair, found) for pair, found in zip(pairs, together, strict=True) if pair[1] != found]
    assert wrong == []


def test_golden_scores(shared):
    cases = json.loads(gzip.decompress((shared / "metrics" / "scores.json.gz").read_bytes()))
    assert len(cases) == 8
    for case in cases:
        ids = list(case["references"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="with one picture CIDEr-D is 0")
            scores = caption_scores(
                [case["references"][i] for i in ids],
                [case["hypotheses"][i] for i in ids],
                tokenized=not case["tokenize"],
            )
        for name, value in scores.corpus.items():
            assert value == pytest.approx(case["expected"][name], rel=0, abs=1e-9), case["name"]
        for name, values in (case["per_image"] or {}).items():
            np.testing.assert_allclose(scores.per_picture[name], values, rtol=0, atol=1e-9)


def test_equals_the_reference_program_picture_by_picture():
    """On captions that nobody would write: empty, repeated, longer or shorter than any other."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = np.random.default_rng(0)

    def caption(least: int) -> str:
        return " ".join(rng.choice(list("aaabbcdefgh"), rng.integers(least, 12)))

    references = {i: [caption(1) for _ in range(rng.integers(1, 6))] for i in range(300)}
    hypotheses = {i: [caption(0)] for i in references}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, bleus = Bleu(4).compute_score(references, hypotheses)
        rouge, rouges = Rouge().compute_score(references, hypotheses)
        cider, ciders = Cider().compute_score(references, hypotheses)
    said = [one for (one,) in hypotheses.values()]
    scores = caption_scores(list(references.values()), said, tokenized=True)
    assert list(scores.corpus.values()) == pytest.approx([*bleu, rouge, cider], rel=0, abs=1e-12)
    for name, values in zip(MEASURES, [*bleus, rouges, ciders], strict=True):
        np.testing.assert_allclose(scores.per_picture[name], values, rtol=0, atol=1e-12)


REFERENCES = [["A dog runs fast .", "a dog runs"], ["Two cats sleep here", "a cat naps"]]


def test_perfect_captions():
    scores = caption_scores(REFERENCES, ["a dog runs fast", "two CATS sleep here."])
    assert [scores.corpus[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx([1] * 4)
    assert scores.per_picture["rouge_l"] == pytest.approx([1, 1])
    assert scores.corpus["rouge_l"] == pytest.approx(1)
    # The cats' second reference shares nothing: half of 10. The dogs' shares most.
    assert scores.per_picture["cider_d"][1] == pytest.approx(5)
    assert 5 < scores.per_picture["cider_d"][0] < 10
    assert scores.corpus["cider_d"] == pytest.approx(np.mean(scores.per_picture["cider_d"]))


def test_tokenized_captions_are_left_alone():
    kept = caption_scores([["A ."], ["B"]], ["a .", "B"], tokenized=True)
    assert kept.corpus["bleu_1"] == pytest.approx(2 / 3)
    assert caption_scores([["A ."], ["B"]], ["a .", "B"]).corpus["bleu_1"] == pytest.approx(1)


def test_a_no_break_space_splits_for_bleu_and_cider_but_not_for_rouge():
    # "2 1/2" is one token with a no-break space, and the reference's scorers split it differently.
    scores = caption_scores([["2 1/2 cups"], ["x"]], ["2 cups", "x"])
    # BLEU-1: 2 of 2 and 1 of 1 words, 3 words for 4. ROUGE-L: one of two tokens.
    assert scores.corpus["bleu_1"] == pytest.approx(np.exp(1 - 4 / 3))
    assert scores.per_picture["rouge_l"] == pytest.approx([0.5, 1])


def test_one_picture_warns():
    with pytest.warns(UserWarning, match="one picture CIDEr-D is 0"):
        assert caption_scores([["a dog"]], ["a dog"]).corpus["cider_d"] == 0


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "no pictures"),
        ([["a"], ["b"]], ["a"], "1 captions for 2 pictures"),
        ([["a"], []], ["a", "b"], "picture 1 has no reference"),
        (["a", "b"], ["a", "b"], "picture 0 are one text"),
    ],
)
def test_wrong_input(references, hypotheses, message):
    with pytest.raises(CaptionerError, match=message):
        caption_scores(references, hypotheses)


def test_human_ceiling_is_the_rounds_of_each_reference_against_the_others():
    rounds = CaptionScorer(REFERENCES).human_ceiling()
    first = caption_scores([[r[1]] for r in REFERENCES], [r[0] for r in REFERENCES])
    second = caption_scores([[r[0]] for r in REFERENCES], [r[1] for r in REFERENCES])
    assert [one.corpus for one in rounds] == [first.corpus, second.corpus]
    for name, value in mean_scores(rounds).items():
        assert value == pytest.approx((first.corpus[name] + second.corpus[name]) / 2)
    assert 0 < mean_scores(rounds)["cider_d"] < 10


def test_human_ceiling_needs_two_references():
    with pytest.raises(CaptionerError, match="picture 1 has 1 reference"):
        CaptionScorer([["a", "b"], ["a"]]).human_ceiling()


def test_a_scorer_scores_any_number_of_times_and_gives_each_picture_its_own():
    scorer = CaptionScorer(REFERENCES)
    captions = ["a dog runs", "two cats sleep"]
    once, again = scorer.score(captions), scorer.score(captions)
    assert once.corpus == again.corpus == caption_scores(REFERENCES, captions).corpus
    assert list(once.per_picture) == list(once.corpus) == list(MEASURES)
    # a picture's BLEU is that of a corpus of one
    for row, picture in enumerate(REFERENCES):
        alone = {name: values[row] for name, values in once.per_picture.items()}
        with pytest.warns(UserWarning, match="one picture"):
            corpus = caption_scores([picture], [captions[row]]).corpus
        for name in MEASURES[:5]:
            assert alone[name] == pytest.approx(corpus[name], abs=1e-12)
    # some of the pictures: the document frequencies of all stay
    part = once.of(np.array([1]))
    assert part.corpus["cider_d"] == once.cider_d[1] > 0


def test_constant_floor_takes_the_best_of_the_frequent_captions():
    train = ["A dog runs fast.", "a bird", "a bird", "two cats sleep here", "a dog runs fast"]
    scorer = CaptionScorer([*REFERENCES, ["a dog runs fast"]])
    caption, scores = constant_floor(train, scorer)
    assert caption == "a dog runs fast"
    direct = caption_scores([*REFERENCES, ["a dog runs fast"]], [caption] * 3)
    assert scores.corpus == direct.corpus
    # Of captions that score alike (not at all), the most frequent one stands.
    assert constant_floor(["x", "z", "z"], CaptionScorer(REFERENCES))[0] == "z"
    # The 21st most frequent caption is no candidate, however good.
    common = [f"x{letter}" for letter in "abcdefghijklmnopqrst"] * 2
    assert constant_floor(["two cats sleep here", *common], CaptionScorer(REFERENCES))[0] == "xa"


def test_constant_floor_needs_training_captions():
    with pytest.raises(CaptionerError, match="no training captions"):
        constant_floor([], CaptionScorer(REFERENCES))
