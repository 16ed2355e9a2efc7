"""sampling.py: inversion and nuclei worked out by hand, frequencies, and the same from the same."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.graph import graph_function
from captioner.sampling import choose, sample, sample_with
from captioner.text import END, PAD, START, UNK
from tests.test_beam_search import (
    EVERY_CAPTION,
    LONGEST,
    VOCABULARY,
    caption_of,
    history_of,
    log_probability,
    random_table,
    step,
)


def draw(table, draws, top_p: float = 1.0):
    """Captions of the toy model of the beam search's tests."""
    history = tf.zeros((len(table), 1), tf.int32)
    draws = tf.constant(draws, tf.float32)
    found = sample_with(draws, step, tf.constant(table), history, top_p)
    return [part.numpy() for part in found]


def uniform(seed, pictures: int, samples: int) -> np.ndarray:
    """Numbers for every word of every caption; seed: one integer, or two."""
    seed = seed if isinstance(seed, tuple) else (seed, 0)
    return tf.random.stateless_uniform((pictures, samples, LONGEST + 1), seed).numpy()


def test_inversion_by_hand():
    weights = tf.constant([[0.0, 2.0, 0.0, 1.0, 5.0]])  # cumulative: 0, 2, 2, 3, 8
    for number, word in ((0.0, 1), (0.24, 1), (0.25, 3), (0.37, 3), (0.375, 4), (0.9999999, 4)):
        assert choose(weights, tf.constant([number]), 1.0).numpy().tolist() == [word]


def test_nucleus_by_hand():
    """0.4, 0.3, 0.2, 0.1: 0.7 needs the two likeliest, a little more a third one."""
    weights = tf.constant([[0.1, 0.4, 0.2, 0.3]])
    even = tf.linspace(0.0, 0.999, 1000)[:, None]
    for top_p, kept in (
        (0.2, {1}),
        (0.4, {1}),
        (0.69, {1, 3}),
        (0.71, {1, 2, 3}),
        (0.95, {0, 1, 2, 3}),
    ):
        found = choose(tf.repeat(weights, 1000, 0)[:, None], even, top_p).numpy()[:, 0]
        counts = Counter(found.tolist())
        assert set(counts) == kept
        mass = sum(float(weights[0, word]) for word in kept)
        for word, count in counts.items():
            assert count / 1000 == pytest.approx(float(weights[0, word]) / mass, abs=0.003)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0), st.integers(1, 40))
def test_nucleus_is_the_smallest_set_that_holds_its_share(seed, top_p, words):
    weights = np.random.default_rng(seed).exponential(size=words).astype(np.float32) ** 3 + 1e-6
    order = np.argsort(-weights, kind="stable")
    held = np.cumsum(weights[order], dtype=np.float64) / weights.sum(dtype=np.float64)

    def nucleus(share: float) -> set[int]:
        return set(order[: np.searchsorted(held, share) + 1].tolist())

    even = np.arange(2000, dtype=np.float32)[None] / 2000
    found = choose(tf.constant(np.tile(weights, (1, 2000, 1))), tf.constant(even), top_p).numpy()
    assert set(found.ravel().tolist()) <= nucleus(top_p + 1e-5)
    large = {word for word in nucleus(top_p - 1e-5) if weights[word] / weights.sum() > 1e-3}
    assert large <= set(found.ravel().tolist())


def test_frequencies_are_the_models_probabilities():
    """Of 20,000 samples of each caption, as often as it is likely among captions."""
    table = random_table(5, 1)
    words, _ = draw(table, uniform(1, 1, 20_000))
    counts = Counter(map(caption_of, words[0]))
    expected = {caption: renormalised(table[0], caption) for caption in EVERY_CAPTION}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    for caption, probability in expected.items():
        slack = 5 * (probability / 20_000) ** 0.5 + 1e-4  # five standard deviations
        assert counts[caption] / 20_000 == pytest.approx(probability, abs=slack)


def renormalised(table: np.ndarray, words) -> float:
    """The probability of a caption where what cannot stand in a place is left out."""
    result = 1.0
    for n, word in enumerate((*words, END)):
        possible = [END] if n == LONGEST else [END] * (n > 0) + list(range(UNK + 1, VOCABULARY))
        weights = {w: np.exp(table[history_of(words[:n]), w]) for w in possible}
        result *= weights[word] / sum(weights.values())
    return float(result)


def test_a_tiny_nucleus_is_greedy():
    table = random_table(8, 4)
    words, _ = draw(table, uniform(1, 4, 50), top_p=1e-6)
    for picture in range(4):
        greedy: list[int] = []
        while len(greedy) < LONGEST:
            possible = [END] * bool(greedy) + list(range(UNK + 1, VOCABULARY))
            word = max(possible, key=lambda w: table[picture, history_of(greedy), w])
            if word == END:
                break
            greedy.append(word)
        assert set(map(caption_of, words[picture])) == {tuple(greedy)}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.8]))
def test_log_probabilities_are_the_models_own(seed, top_p):
    table = random_table(seed, 3)
    words, totals = draw(table, uniform(seed, 3, 6), top_p)
    assert words.shape == (3, 6, LONGEST) and totals.shape == (3, 6)
    assert not np.isin(words, [START, END, UNK]).any()
    for picture in range(3):
        for row, total in zip(words[picture], totals[picture], strict=True):
            caption = caption_of(row)
            assert caption in EVERY_CAPTION and tuple(row[: len(caption)]) == caption
            expected = log_probability(table[picture], caption)
            assert total == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.9]))
def test_a_picture_alone_gets_what_it_gets_in_a_batch(seed, top_p):
    """Although pictures whose samples have all ended are dropped on the way."""
    table, draws = random_table(seed, 9), uniform(seed, 9, 3)
    together = draw(table, draws, top_p)
    for picture in range(9):
        here = slice(picture, picture + 1)
        for ours, theirs in zip(draw(table[here], draws[here], top_p), together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[picture])


def test_seeds_decide():
    """Also inside a compiled function, as training calls it, with a seed for each step."""
    table = tf.constant(random_table(0, 4))

    @graph_function(input_signature=[tf.TensorSpec((2,), tf.int32)])
    def compiled(seed):
        return sample(step, table, tf.zeros((4, 1), tf.int32), 8, LONGEST, seed, 0.9)

    first, again, other = (
        [part.numpy() for part in compiled(np.array((7, seed), np.int32))] for seed in (1, 1, 2)
    )
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (first[0] != other[0]).any()
    assert len({caption_of(row) for row in first[0][0]}) > 1
    assert len({tuple(map(caption_of, rows)) for rows in first[0]}) == 4  # no numbers are shared
    expected = draw(table, uniform((7, 1), 4, 8), 0.9)
    np.testing.assert_array_equal(first[0], expected[0])


def test_words_after_the_end_are_padding_also_where_the_model_is_sure():
    table = np.full((1, VOCABULARY ** (LONGEST + 1), VOCABULARY), -1e4, np.float32)
    table[:, :, PAD] = 0.0  # all it says is what cannot stand in a caption
    words, _ = draw(table, uniform(0, 1, 30))
    assert ((words > UNK) | (words == PAD)).all() and (words[:, :, 0] > UNK).all()


def test_a_model_of_no_numbers_ends():
    table = np.full((2, VOCABULARY ** (LONGEST + 1), VOCABULARY), np.nan, np.float32)
    words, totals = draw(table, uniform(0, 2, 3))
    assert words.shape == (2, 3, LONGEST) and np.isnan(totals).all()
