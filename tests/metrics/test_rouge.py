"""ROUGE-L on captions small enough to work out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.metrics.rouge import longest_common_subsequence, rouge_l

CAPTION = st.lists(st.sampled_from("abcd"), max_size=9)


def lcs_by_recursion(first, second):
    """The definition, without any table."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + lcs_by_recursion(first[:-1], second[:-1])
    return max(lcs_by_recursion(first[:-1], second), lcs_by_recursion(first, second[:-1]))


@settings(deadline=None)
@given(CAPTION.filter(lambda c: len(c) < 7), CAPTION.filter(lambda c: len(c) < 7))
def test_longest_common_subsequence(first, second):
    assert longest_common_subsequence(first, second) == lcs_by_recursion(first, second)


def test_one_reference():
    # a c of a b c d: precision 2/2, recall 2/4; 2.44 * 1 * 0.5 / (0.5 + 1.44 * 1).
    mean, scores = rouge_l([[["a", "b", "c", "d"]]], [["a", "c"]])
    assert scores == pytest.approx([1.22 / 1.94])
    assert mean == scores[0]


def test_best_precision_and_best_recall_may_come_from_different_references():
    # Precision 1/2 with both, recall 1/4 with the first and 1/1 with the second.
    _, scores = rouge_l([[["a", "x", "x", "x"], ["c"]]], [["a", "c"]])
    assert scores == pytest.approx([2.44 * 0.5 * 1 / (1 + 1.44 * 0.5)])


def test_nothing_in_common_and_empty_captions():
    # The reference takes an empty caption for one empty word, which equals another one.
    _, scores = rouge_l([[["a"]], [["a"]], [[]], [[]]], [["b"], [], ["a"], []])
    assert scores.tolist() == [0, 0, 0, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(CAPTION, min_size=1, max_size=3), CAPTION), min_size=1))
def test_bounds_mean_and_order(corpus):
    references, hypotheses = zip(*corpus, strict=True)
    mean, scores = rouge_l(references, hypotheses)
    assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()
    assert mean == pytest.approx(np.mean(scores))
    _, reverse = rouge_l([picture[::-1] for picture in references[::-1]], hypotheses[::-1])
    assert reverse.tolist() == scores[::-1].tolist()


@settings(deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=9))
def test_perfect_caption_of_numbers_scores_one(caption):
    assert rouge_l([[caption, [-1]]], [caption])[0] == pytest.approx(1)
