"""CIDEr-D on captions small enough to work out by hand, and against the paper's formula."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams

CAPTION = st.lists(st.sampled_from("abcde"), max_size=7)
REFERENCES = st.lists(st.lists(CAPTION, min_size=1, max_size=3), min_size=1, max_size=4)


def split(*captions):
    return [caption.split() for caption in captions]


def cider(references):
    return CiderD(ReferenceNGrams(references))


def test_perfect_captions_score_ten():
    references = [split("a b c d"), split("e f g h")]
    assert cider(references).score(split("a b c d", "e f g h")) == pytest.approx([10, 10])


def test_captions_too_short_for_long_ngrams_lose_those_orders():
    # Words and pairs agree, there are no triples and fours: 10 * (1 + 1 + 0 + 0) / 4.
    assert cider([split("a b"), split("c d")]).score(split("a b", "d c")) == pytest.approx([5, 2.5])


def test_cosines_and_length_penalty():
    # All weights are log 2. Dots 3, 2, 1 over norms sqrt(3 * 4), sqrt(2 * 3), sqrt(1 * 2).
    cosines = 3 / math.sqrt(12) + 2 / math.sqrt(6) + 1 / math.sqrt(2)
    expected = 10 * cosines / 4 * math.exp(-1 / (2 * 6**2))
    assert cider([split("a b c d"), split("x")]).score(split("a b c", "y")) == pytest.approx(
        [expected, 0]
    )


def test_repetition_is_clipped():
    # Words: 2a against a + b; min(2, 1) * 1 over 2 * sqrt(2). Pairs differ.
    score = cider([split("a b"), split("x")]).score(split("a a", "y"))[0]
    assert score == pytest.approx(10 / 4 / (2 * math.sqrt(2)))


def test_mean_over_references():
    references = [split("a b c d", "u v w x"), split("e f g h")]
    assert cider(references).score(split("a b c d", "z")) == pytest.approx([5, 0])


def test_what_every_picture_says_is_worth_nothing():
    references = [split("a dog"), split("a cat")]
    assert cider(references).score(split("a", "a")).tolist() == [0, 0]


def test_several_captions_a_picture():
    references = [split("a b c d", "a b"), split("c d e"), split("e f")]
    scorer = cider(references)
    captions = split("a b", "c d", "e f", "a b c", "f")
    pictures = [0, 1, 2, 0, 2]
    one_by_one = [scorer.score([c], [p])[0] for c, p in zip(captions, pictures, strict=True)]
    assert scorer.score(captions, pictures).tolist() == one_by_one
    assert scorer.score(captions[:3]).tolist() == one_by_one[:3]


def test_empty_captions_score_zero():
    assert cider([[["a"], []], [[]]]).score([[], ["a"]]).tolist() == [0, 0]


def test_wrong_input():
    with pytest.raises(CaptionerError, match="picture 1 has no reference"):
        cider([[["a"]], []])
    with pytest.raises(CaptionerError, match="2 captions for 1 pictures"):
        cider([[["a"]]]).score([["a"], ["b"]])


def by_matrices(references, hypotheses):
    """CIDEr-D as the paper writes it: dense TF-IDF vectors over all n-grams of one order."""

    def grams(tokens, n):
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    totals = np.zeros(len(hypotheses))
    for n in range(1, 5):
        sentences = [c for group in references for c in group] + list(hypotheses)
        columns = sorted({gram for caption in sentences for gram in grams(caption, n)})
        frequency = [
            sum(any(gram in grams(caption, n) for caption in group) for group in references)
            for gram in columns
        ]
        idf = np.log(len(references)) - np.log(np.maximum(1, frequency))

        def vector(tokens, n=n, columns=columns, idf=idf):
            return np.array([grams(tokens, n).count(gram) for gram in columns]) * idf

        for row, (group, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
            for reference in group:
                h, r = vector(hypothesis), vector(reference)
                norms = np.linalg.norm(h) * np.linalg.norm(r)
                delta = max(len(hypothesis) - 1, 0) - max(len(reference) - 1, 0)
                if norms:
                    cosine = np.minimum(h, r) @ r / norms
                    totals[row] += 10 / 4 * cosine * np.exp(-(delta**2) / 72) / len(group)
    return totals


@settings(deadline=None)
@given(REFERENCES, st.data())
def test_equals_the_formula(references, data):
    hypotheses = data.draw(st.lists(CAPTION, min_size=len(references), max_size=len(references)))
    scores = cider(references).score(hypotheses)
    assert scores == pytest.approx(by_matrices(references, hypotheses), abs=1e-9)
    assert ((scores >= 0) & (scores <= 10 + 1e-9)).all()
    numbers = [[[ord(t) for t in caption] for caption in group] for group in references]
    assert (
        cider(numbers).score([[ord(t) for t in h] for h in hypotheses]).tolist() == scores.tolist()
    )
    mirrored = cider(references[::-1]).score(hypotheses[::-1])
    assert mirrored[::-1] == pytest.approx(scores)
