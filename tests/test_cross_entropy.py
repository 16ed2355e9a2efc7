"""cross_entropy.py: what is minimised, by hand and by single steps; the batch; dropout."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from captioner.cross_entropy import CrossEntropy, smoothed_cross_entropy
from captioner.examples import Examples
from captioner.graph import graph_function
from captioner.model import CaptionModel, ModelConfig
from captioner.packing import pack
from captioner.text import END, PAD, START


def test_label_smoothing_by_hand():
    """P = (1/2, 1/4, 1/8, 1/8), target 1, a tenth spread: 0.9 * 2 bits + 0.1 * mean 2.25 bits."""
    logits = np.log(2.0) * np.array([[-1, -2, -3, -3], [2, 1, 0, 0]])  # the same P, shifted
    objective, loss = smoothed_cross_entropy(tf.constant(logits), tf.constant([1, 0]), 0.1)
    first, second = 0.9 * 2 + 0.1 * 2.25, 0.9 * 1 + 0.1 * 2.25
    assert float(objective) == pytest.approx(np.log(2) * (first + second) / 2)
    assert float(loss) == pytest.approx(np.log(2) * (2 + 1))
    plain, loss = smoothed_cross_entropy(tf.constant(logits), tf.constant([1, 0]), 0.0)
    assert float(plain) == pytest.approx(float(loss) / 2)


@given(st.integers(2, 9), st.floats(-50, 50), st.floats(0, 1))
def test_who_knows_nothing_pays_the_logarithm_of_the_vocabulary(vocabulary, logit, smoothing):
    logits = tf.fill((3, vocabulary), logit)
    objective, loss = smoothed_cross_entropy(logits, tf.constant([0, 1, 1]), smoothing)
    assert float(objective) == pytest.approx(np.log(vocabulary), rel=1e-5)
    assert float(loss) == pytest.approx(3 * np.log(vocabulary), rel=1e-5)


TOKENS = np.array(
    [
        [[START, 4, 5, 6, END], [START, 7, END, PAD, PAD]],
        [[START, 8, 8, 4, END], [START, 5, 4, END, PAD]],
        [[START, 5, END, PAD, PAD], [PAD] * 5],
    ],
    np.uint16,
)


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    keras.utils.set_random_seed(2)
    config = ModelConfig(vocabulary=9, word_size=5, cells=4, channels=6, units=8, heads=2)
    return CaptionModel(config, np.random.default_rng(2).normal(size=(9, 5)))


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Three pictures in rows 1, 3 and 4 of all."""
    features = np.random.default_rng(1).normal(0, 2, (5, 4, 6)).astype(np.float16)
    return Examples(features, np.array([1, 3, 4]), np.array(["a", "b", "c"]), TOKENS)


def compiled(objective: CrossEntropy):
    """The loss as the trainer compiles it, on a batch of all pictures."""
    seeds = tf.TensorSpec((2,), tf.int32)
    function = graph_function(objective.loss, input_signature=[objective.signature, seeds])
    batch = objective.batch(np.arange(3), (0, 0))
    return lambda *seed: np.array(function(batch, tf.constant(seed)))


def test_loss_is_that_of_single_steps(model, examples):
    loss, plain, words = compiled(CrossEntropy(model, examples, 0.0, label_smoothing=0.2))(7, 1)
    memory, state = model.look(examples.features[examples.rows])
    state = tuple(tf.repeat(part, 2, axis=1) for part in state)
    own, uniform = [], []
    for t in range(4):
        said, state = model.next_word(memory, state, TOKENS[:, :, t].astype(np.int32))
        for place in np.argwhere(TOKENS[:, :, t + 1] != PAD):
            bits = -said.numpy()[tuple(place)]
            own.append(bits[TOKENS[*place, t + 1]])
            uniform.append(bits.mean())
    assert words == len(own) == 15
    assert plain == pytest.approx(np.sum(own), rel=1e-5)
    assert loss == pytest.approx(0.8 * np.mean(own) + 0.2 * np.mean(uniform), rel=1e-5)


def test_dropout_follows_the_seed_of_the_step_alone(model, examples):
    loss = compiled(CrossEntropy(model, examples, dropout=0.5, label_smoothing=0.1))
    first = loss(7, 1)
    np.testing.assert_array_equal(loss(7, 1), first)
    for other in ((7, 2), (8, 1)):
        assert abs(loss(*other)[:2] - first[:2]).min() > 1e-3
    assert loss(7, 2)[2] == first[2]  # the words are the same


def test_batch_is_the_chosen_pictures_with_their_captions(model, examples):
    objective = CrossEntropy(model, examples, 0.5, 0.1)
    assert objective.names is examples.names
    features, captions = objective.batch(np.array([0, 2]), (7, 1))
    np.testing.assert_array_equal(features, examples.features[[1, 4]])
    for ours, theirs in zip(captions, pack(TOKENS[[0, 2]]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_about_half_of_the_pictures_are_mirrored_by_the_seed_of_the_step(model):
    """A picture's features hold its number, those of its mirror image the number below zero."""
    pictures = np.arange(1, 401, dtype=np.float16)
    features = np.broadcast_to(pictures[:, None, None], (400, 4, 6))
    tokens = np.broadcast_to(TOKENS[:1], (400, 2, 5))
    examples = Examples(features, np.arange(400), pictures.astype(str), tokens, -features)
    chosen = np.arange(1, 400, 2)

    def turned(examples: Examples, *seed: int) -> list[bool]:
        batch, _ = CrossEntropy(model, examples, 0.5, 0.1).batch(chosen, seed)
        np.testing.assert_array_equal(abs(batch), features[chosen])
        return (batch[:, 0, 0] < 0).tolist()

    first = turned(examples, 7, 1)
    assert 65 < sum(first) < 135  # five standard deviations
    assert turned(examples, 7, 1) == first
    assert turned(examples, 7, 2) != first
    assert turned(examples, 8, 1) != first
    assert not any(turned(replace(examples, mirrored=None), 7, 1))
