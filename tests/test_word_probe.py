"""word_probe.py: the probe is the regression it says it is."""

import keras
import numpy as np
import pytest
from keras import layers

from captioner.grad_cam import grad_cam
from captioner.word_probe import PROBE_PENALTY, fit_logistic, word_probe


def loss(features, labels, weights, bias):
    """Of penalised regressions on standardised features, for weights of features as they are."""
    deviation = features.std(axis=0)
    logits = features @ weights + bias
    fit = np.logaddexp(0, logits) - labels * logits
    own = weights * deviation[:, None]
    constant = bias + features.mean(axis=0) @ weights
    return fit.sum() + PROBE_PENALTY * len(weights) / 2 * (own**2).sum() + (constant**2).sum() / 2


@pytest.mark.parametrize(("pictures", "channels"), [(60, 5), (12, 40)])
def test_the_probe_is_the_least_of_its_loss(pictures, channels):
    rng = np.random.default_rng(3)
    features = rng.normal(2, rng.uniform(0.1, 9, channels), (pictures, channels))
    features[:, 0] = 0.1  # says nothing, though its deviation is rounded to 1e-17
    labels = (features[:, [1, 2, 3]] + rng.normal(size=(pictures, 3)) > 2).astype(np.uint8)
    labels = np.column_stack([labels, np.ones(pictures), np.zeros(pictures)])  # always, never
    weights, bias = fit_logistic(features, labels)
    assert weights.shape == (channels, 5)
    assert abs(weights[0]).max() < 1e-9
    least = loss(features, labels, weights, bias)
    for _ in range(50):
        change = rng.normal(size=weights.shape) * 1e-3
        assert loss(features, labels, weights + change, bias) > least
        assert loss(features, labels, weights, bias + rng.normal(size=5) * 1e-2) > least
    always, never = (features @ weights + bias).T[3:]
    assert always.min() > 1 > -1 > never.max()


def test_the_probe_of_a_network_tells_its_words_apart_by_the_mean_of_the_grid():
    inner = keras.Input((8, 8, 3))
    network = keras.Model(inner, layers.AveragePooling2D(4)(inner))
    pictures = keras.Input((8, 8, 3))
    encoder = keras.Model(pictures, network(pictures))
    rng = np.random.default_rng(2)
    seen = rng.integers(0, 30, (70, 8, 8, 3)).astype(np.uint8)  # more than two batches
    labels = rng.integers(0, 2, (70, 2))
    seen[labels[:, 0] == 1, :4, :4, 0] += 120  # red at the upper left
    seen[labels[:, 1] == 1, 4:, 4:, 2] += 120  # blue at the lower right
    probe = word_probe(encoder, seen, labels)
    grid = encoder(seen.astype(np.float32)).numpy()
    logits = probe(grid).numpy()
    assert ((logits > 0) == labels).all()
    weights, bias = fit_logistic(grid.mean(axis=(1, 2), dtype=np.float64), labels)
    np.testing.assert_allclose(logits, grid.mean(axis=(1, 2)) @ weights + bias, atol=0.02)
    # Grad-CAM with it is the class activation map.
    both = np.flatnonzero(labels.all(axis=1))[:2]
    maps = grad_cam(encoder, probe, seen[both], np.array([[0, 1]] * 2))
    expected = np.maximum(np.einsum("nrcd,dk->nkrc", grid[both], weights) / 4, 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4)
    assert maps.reshape(2, 2, 4).argmax(-1).tolist() == [[0, 3]] * 2
    np.testing.assert_array_equal(word_probe(encoder, seen, labels)(grid), logits)
