"""bootstrap.py: intervals cover the truth, and p-values cry wolf no more often than they say."""

import numpy as np
import pytest

from captioner import CaptionerError
from captioner.datasets.scene_captions import captions as five_captions
from captioner.datasets.scene_drawing import sample_facts
from captioner.metrics import MEASURES, CaptionScorer, CaptionScores
from captioner.metrics.bootstrap import (
    confidence_intervals,
    interval_of_mean,
    paired_differences,
)
from captioner.metrics.tokenizer import tokenize


def scores(values) -> CaptionScores:
    values = np.asarray(values, float)
    return CaptionScores(np.ones((len(values), 10)), values, values)


@pytest.fixture(scope="module")
def people() -> list[list[str]]:
    """Seven captions a scene, by two of whom models play: all the same kind of speaker."""
    rng = np.random.default_rng(0)
    scenes = [sample_facts(rng) for _ in range(1500)]
    drawn = [five_captions(facts, rng) + five_captions(facts, rng) for facts in scenes]
    return [
        [" ".join(tokenize(caption)) for caption in rng.permutation(captions)[:7]]
        for captions in drawn
    ]


def scorer_of(references) -> CaptionScorer:
    return CaptionScorer(references, tokenized=True)


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    values = np.random.default_rng(1).normal(3, 2, 900)
    low, high = interval_of_mean(values, seed=1, samples=20_000)
    half = 1.96 * values.std() / 30
    assert low == pytest.approx(values.mean() - half, abs=0.005)
    assert high == pytest.approx(values.mean() + half, abs=0.005)
    both = confidence_intervals([scores(values)], seed=1)
    assert both["rouge_l"] == both["cider_d"] == pytest.approx(interval_of_mean(values, seed=1))


def test_bleu_is_that_of_the_samples_summed_counts():
    # Two kinds of pictures, all right and all wrong: BLEU-1 is the share of right ones drawn.
    right, wrong = [1, 0, 0, 0, 1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]
    counts = np.array([right, wrong] * 50, float)
    one = CaptionScores(counts, np.zeros(100), np.zeros(100))
    low, high = confidence_intervals([one], seed=3, samples=20_000)["bleu_1"]
    assert (low, high) == pytest.approx((0.5 - 0.098, 0.5 + 0.098), abs=0.011)


def test_rounds_are_averaged_on_the_same_samples():
    values = np.random.default_rng(2).random(50)
    opposite = confidence_intervals([scores(values), scores(1 - values)], seed=1)
    assert opposite["cider_d"] == pytest.approx((0.5, 0.5))


def test_the_seed_decides():
    one = scores(np.random.default_rng(2).random(40))
    assert confidence_intervals([one], seed=1) == confidence_intervals([one], seed=1)
    assert confidence_intervals([one], seed=1) != confidence_intervals([one], seed=2)


def test_intervals_cover_the_truth_about_95_times_in_100(people):
    """The truth: scores of all 1,500 scenes; splits have document frequencies of their own."""
    references = [group[2:] for group in people]
    said = [group[0] for group in people]
    truth = scorer_of(references).score(said).corpus
    rng = np.random.default_rng(3)
    covered = dict.fromkeys(("rouge_l", "bleu_4"), 0)
    widths, found = [], []
    for split in range(150):
        chosen = rng.choice(len(people), 150, replace=False)
        one = scorer_of([references[i] for i in chosen]).score([said[i] for i in chosen])
        intervals = confidence_intervals([one], seed=split)
        for name in covered:
            low, high = intervals[name]
            covered[name] += low <= truth[name] <= high
        low, high = intervals["cider_d"]
        widths.append((high - low) / (2 * 1.96))
        found.append(one.corpus["cider_d"])
    # Splits are a tenth of the whole, so that they differ a little less than independent ones.
    assert all(136 <= count <= 149 for count in covered.values()), covered
    # CIDEr-D of few pictures is higher for all systems alike; the spread is what must be right.
    assert 0.85 < np.mean(widths) / (np.std(found) / np.sqrt(0.9)) < 1.2


def test_no_difference_where_there_is_none(people):
    """200 pairs of the same speaker: at most 8% may look different at the level of 5%."""
    rng = np.random.default_rng(4)
    significant = dict.fromkeys(MEASURES, 0)
    for pair in range(200):
        chosen = rng.choice(len(people), 120, replace=False)
        captions = [rng.permutation(people[i]).tolist() for i in chosen]
        scorer = scorer_of([group[2:] for group in captions])
        one, other = (scorer.score([group[side] for group in captions]) for side in (0, 1))
        for name, difference in paired_differences(one, other, seed=pair, samples=1000).items():
            significant[name] += difference.p_value < 0.05
    assert all(count <= 16 for count in significant.values()), significant
    assert sum(significant.values()) > 0


def test_a_difference_where_there_is_one(people):
    chosen = people[:300]
    scorer = scorer_of([group[2:] for group in chosen])
    good = scorer.score([group[0] for group in chosen])
    wrong = scorer.score([people[i + 300][0] for i in range(300)])
    for name, by in paired_differences(wrong, good, seed=1).items():
        assert by.value == pytest.approx(good.corpus[name] - wrong.corpus[name])
        assert 0 < by.low < by.value < by.high and by.p_value < 0.001
        back = paired_differences(good, wrong, seed=1)[name]
        assert (back.value, back.low, back.high) == pytest.approx((-by.value, -by.high, -by.low))


def test_pairs_are_finer_than_two_intervals(people):
    """One caption in ten made better: each interval hides it, the pairs show it."""
    chosen = people[:400]
    scorer = scorer_of([group[2:] for group in chosen])
    captions = [group[0] for group in chosen]
    better = [group[2] if i % 10 == 0 else group[0] for i, group in enumerate(chosen)]
    one, other = scorer.score(captions), scorer.score(better)
    lows, highs = (confidence_intervals([side], seed=1)["cider_d"] for side in (other, one))
    assert lows[0] < highs[1]
    assert paired_differences(one, other, seed=1)["cider_d"].p_value < 0.001


def test_the_same_captions_do_not_differ():
    one = scores(np.random.default_rng(2).random(40))
    for by in paired_differences(one, one, seed=1).values():
        assert tuple(by) == (0, 0, 0, 1)


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(5)
    verdicts = set()
    for shift in np.linspace(0, 0.5, 40):
        base = rng.normal(0, 1, 100)
        by = paired_differences(scores(base), scores(base + rng.normal(shift, 1, 100)), seed=1)
        outside = not by["cider_d"].low <= 0 <= by["cider_d"].high
        assert (
            outside == (by["cider_d"].p_value < 0.05) or abs(by["cider_d"].p_value - 0.05) < 0.002
        )
        verdicts.add(outside)
    assert verdicts == {True, False}


def test_different_pictures_cannot_be_compared():
    with pytest.raises(CaptionerError, match="3 pictures against 2"):
        paired_differences(scores([1, 2, 3]), scores([1, 2]), seed=1)
