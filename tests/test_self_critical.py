"""self_critical.py: rewards and advantages by hand, and that the likelier caption is the better."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner.determinism import make_deterministic
from captioner.examples import Examples
from captioner.graph import graph_function
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel, ModelConfig
from captioner.packing import pack
from captioner.self_critical import (
    SHARPNESS,
    SelfCritical,
    advantages,
    people,
    sharpen,
    with_ends,
)
from captioner.text import END, PAD, START

CONFIG = ModelConfig(vocabulary=9, word_size=5, cells=2, channels=6, units=16, heads=2)
SAMPLES, LONGEST = 8, 4


def examples() -> Examples:
    """Four pictures with a caption of two words of its own each, twice."""
    features = np.random.default_rng(0).normal(0, 2, (4, 2, 6)).astype(np.float16)
    captions = np.array([[START, 4 + n, 5 + n, END] for n in range(4)], np.uint16)
    tokens = np.stack([captions, captions], axis=1)
    return Examples(features, np.arange(4), np.array(list("abcd")), tokens)


@pytest.fixture
def model() -> CaptionModel:
    make_deterministic(3)
    return CaptionModel(CONFIG, np.random.default_rng(1).normal(size=(9, 5)))


@pytest.fixture
def objective(model) -> SelfCritical:
    return SelfCritical(model, examples(), 0.0, SAMPLES, LONGEST)


def test_advantage_is_what_a_sample_has_above_the_others():
    found = advantages(np.array([[3.0, 1.0, 2.0], [0.5, 0.5, 0.5]]))
    assert found.tolist() == [[1.5, -1.5, 0.0], [0.0, 0.0, 0.0]]


def test_samples_get_a_beginning_and_an_end():
    words = np.array([[[5, 6, PAD], [7, 8, 4]]], np.int32)
    assert with_ends(words).tolist() == [[[START, 5, 6, END, PAD], [START, 7, 8, 4, END]]]


def test_captions_are_counted_with_their_end_and_padding_is_none():
    tokens = np.array([[START, 5, END, PAD], [PAD] * 4, [START, 6, 7, END]])
    assert people(tokens) == [[5, END], [6, 7, END]]


def test_sharper_is_a_softmax_of_lower_temperature(model):
    features, packed = examples().load(np.arange(4)), pack(examples().tokens)
    before = graph_function(model.logits)(features, packed).numpy()
    sharpen(model)
    np.testing.assert_allclose(
        graph_function(model.logits)(features, packed), SHARPNESS * before, rtol=1e-4, atol=1e-5
    )


def test_every_token_carries_the_advantage_of_its_caption(objective):
    """Rewards once more from the packed captions, by the words alone."""
    chosen = np.array([1, 3])
    features, packed, worth, rewards = objective.batch(chosen, (3, 7))
    np.testing.assert_array_equal(features, objective.examples.features[chosen])
    scorer = CiderD(ReferenceNGrams([[[4 + n, 5 + n, END]] * 2 for n in range(4)]))
    starts = np.cumsum([0, *packed.counts[:-1]])
    captions, token_worth = [], []
    for row in range(len(packed.pictures)):
        tokens = [
            start + row for start, count in zip(starts, packed.counts, strict=True) if row < count
        ]
        captions.append(packed.targets[tokens].tolist())
        token_worth.append(worth[tokens])
    assert all(caption[-1] == END and END not in caption[:-1] for caption in captions)
    by_caption = scorer.score(captions, chosen[packed.pictures])
    assert by_caption.std() > 0  # else nothing is told apart
    for picture in range(2):
        mine = np.flatnonzero(packed.pictures == picture)
        for row in mine:
            others = [by_caption[other] for other in mine if other != row]
            expected = by_caption[row] - np.mean(others)
            np.testing.assert_allclose(token_worth[row], expected, atol=1e-5)
    assert rewards.sum() == pytest.approx(by_caption.sum(), rel=1e-5)


def test_equal_seeds_equal_samples(objective):
    def targets(*seed):
        return objective.batch(np.arange(4), seed)[1].targets.tolist()

    assert targets(3, 7) == targets(3, 7)
    assert targets(3, 7) != targets(3, 8)


def test_the_loss_by_hand(objective):
    batch = objective.batch(np.arange(4), (3, 1))
    features, packed, worth, rewards = batch
    loss, total, count = graph_function(objective.loss)(batch, tf.constant([3, 1]))
    logits = graph_function(objective.model.logits)(features, packed).numpy().astype(np.float64)
    said = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    said = said[np.arange(len(said)), packed.targets]
    assert float(loss) == pytest.approx(-(worth * said).mean(), abs=1e-5)
    assert float(total) / float(count) == pytest.approx(rewards.mean(), rel=1e-5)
    assert int(count) == 4 * SAMPLES


def test_it_learns_what_people_say_from_rewards_alone(objective):
    """No step sees a person's caption."""
    signature = [objective.signature, tf.TensorSpec((2,), tf.int32)]
    step = graph_function(objective.loss, input_signature=signature)
    optimizer = keras.optimizers.Adam(0.02)
    weights = objective.model.trainable_variables
    seen = []
    for number in range(60):
        batch = objective.batch(np.arange(4), (3, number))
        with tf.GradientTape() as tape:
            loss, total, count = step(batch, tf.constant([3, number]))
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        seen.append(float(total) / float(count))
    assert np.mean(seen[:5]) < 2
    assert np.mean(seen[-5:]) > 2 * np.mean(seen[:5])
