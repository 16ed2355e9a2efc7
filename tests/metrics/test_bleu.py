"""BLEU on corpora small enough to work out by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.metrics.bleu import bleu

CAPTION = st.lists(st.sampled_from("abcd"), max_size=7)
CORPUS = st.lists(
    st.tuples(st.lists(CAPTION, min_size=1, max_size=3), CAPTION), min_size=1, max_size=5
)


def test_short_caption_pays_the_brevity_penalty():
    # 3 of 3 words, 2 of 2 pairs, 1 of 1 triples; 0 of 0 fours are 1e-15 / 1e-9. Length 3 for 4.
    scores = bleu([[["a", "b", "c", "d"]]], [["a", "b", "c"]])
    penalty = math.exp(1 - 4 / 3)
    assert scores == pytest.approx([penalty] * 3 + [penalty * 1e-6**0.25], rel=1e-6)


def test_repeated_words_are_clipped_to_the_most_in_one_reference():
    references = [[["the", "cat", "the"], ["the", "hat", "sat"]]]
    assert bleu(references, [["the", "the", "the"]])[0] == pytest.approx(2 / 3, rel=1e-6)


def test_of_two_equally_close_lengths_the_shorter_counts():
    # Lengths 2 and 4 are both 1 away from 3: with 2 there is no penalty, with 4 there would be.
    assert bleu([[["a", "b"], ["a", "b", "c", "d"]]], [["a", "b", "c"]])[0] == pytest.approx(1)


def test_counts_are_summed_over_the_corpus():
    # 1 of 1 and 1 of 3 words: 2/4, not the mean 2/3.
    scores = bleu([[["a"]], [["a", "b", "c"]]], [["a"], ["a", "x", "y"]])
    assert scores[0] == pytest.approx(0.5)


def test_empty_caption():
    assert bleu([[["a"]]], [[]])[0] == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=9), min_size=1, max_size=5))
def test_perfect_captions_score_one(captions):
    scores = bleu([[caption, [1, 2]] for caption in captions], captions)
    assert scores == pytest.approx([1] * 4, rel=1e-8)


@settings(deadline=None)
@given(CORPUS)
def test_scores_are_fractions(corpus):
    scores = bleu(*zip(*corpus, strict=True))
    assert all(0 <= score <= 1 + 1e-9 for score in scores)


@settings(deadline=None)
@given(CORPUS, st.randoms(use_true_random=False))
def test_order_does_not_matter(corpus, random):
    shuffled = [(random.sample(refs, len(refs)), hypothesis) for refs, hypothesis in corpus]
    random.shuffle(shuffled)
    assert bleu(*zip(*shuffled, strict=True)) == pytest.approx(bleu(*zip(*corpus, strict=True)))
