"""consensus.py: against CIDEr-D of each caption with each neighbour's, added up by hand."""

import numpy as np
import pytest
import tensorflow as tf

from captioner import consensus
from captioner.consensus import Consensus, Told, told_of
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.text import END, PAD, START


def seen(features: tf.Tensor) -> tf.Tensor:
    """Three words, each seen as far as a channel of the picture's mean is above zero."""
    return tf.nn.relu(tf.reduce_mean(tf.cast(features, tf.float32), 1))


RNG = np.random.default_rng(3)
TRAIN = RNG.normal(size=(40, 1, 3)).astype(np.float16)


def random_tokens(pictures: int) -> np.ndarray:
    tokens = np.full((pictures, 2, 8), PAD)
    for row in tokens.reshape(-1, 8):
        words = RNG.integers(4, 9, RNG.integers(1, 7))
        row[: len(words) + 2] = START, *words, END
    return tokens


TOKENS = random_tokens(40)


@pytest.fixture
def told(monkeypatch) -> Told:
    monkeypatch.setattr(consensus, "NEIGHBOURS", 7)
    return told_of(seen, TRAIN, TOKENS)


def test_agreement_is_the_mean_over_the_neighbours(told):
    features = RNG.normal(size=(5, 4, 3)).astype(np.float16)
    words = np.where(np.arange(6) < RNG.integers(1, 7, (5, 3, 1)), RNG.integers(4, 9, (5, 3, 6)), 0)
    found = Consensus(seen, told)(features, words)
    assert found.shape == (5, 3)

    def unit(x):
        return x / max(np.linalg.norm(x), 1e-9)

    people = [[[int(w) for w in c if w not in (PAD, START)] for c in group] for group in TOKENS]
    scorer = CiderD(ReferenceNGrams(people))
    places = [unit(x).astype(np.float16) for x in seen(tf.constant(TRAIN)).numpy()]
    for picture in range(5):
        here = unit(seen(tf.constant(features[picture, None])).numpy()[0])
        cosines = np.array([here @ place.astype(np.float32) for place in places])
        near = np.argsort(-cosines, kind="stable")[:7]
        weights = np.exp(10 * cosines[near])
        for caption in range(3):
            said = [*words[picture, caption][words[picture, caption] != PAD].tolist(), END]
            scores = scorer.score([said] * 7, near)
            expected = (weights * scores).sum() / weights.sum()
            assert found[picture, caption] == pytest.approx(expected, rel=1e-4)
    assert (found.max(1) > found.min(1)).all()


def test_what_neighbours_say_agrees_most(told):
    """A picture as one of the training pictures, and one's caption among them."""
    features = np.repeat(TRAIN[8:9], 4, 1)
    own = TOKENS[8, 0][1:-1]
    own = np.where(own == END, PAD, own)
    other = np.array([4, 4, 4, 4, 4, 4])
    [[theirs, strange]] = Consensus(seen, told)(features, np.stack([own, other])[None])
    assert theirs > strange


def test_of_many_pictures_evenly_spread_ones_are_kept(monkeypatch):
    monkeypatch.setattr(consensus, "MOST", 5)
    monkeypatch.setattr(consensus, "BATCH", 2)
    told = told_of(seen, TRAIN, TOKENS)
    np.testing.assert_array_equal(told.tokens, TOKENS[[0, 9, 19, 29, 39]])
    assert told.places.dtype == np.float16 and told.tokens.dtype == np.uint16
    monkeypatch.setattr(consensus, "MOST", 100)
    every = told_of(seen, TRAIN, TOKENS)
    np.testing.assert_array_equal(every.places[[0, 9, 19, 29, 39]], told.places)


def test_fewer_pictures_than_neighbours_and_nothing_seen_or_said():
    told = told_of(seen, TRAIN[:2], TOKENS[:2] * np.array([1, 0])[:, None, None])
    found = Consensus(seen, told)(-np.abs(TRAIN[:3]), np.full((3, 1, 6), 5))
    assert np.isfinite(found).all() and (found >= 0).all()
