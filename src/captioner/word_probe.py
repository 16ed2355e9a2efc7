"""A linear classifier of the captions' words on top of a pretrained CNN, which has none for them.

Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
"""

import keras
import numpy as np
from keras import layers
from tqdm import tqdm

from captioner.encoder import grid_function

PROBE_BATCH = 32  # pictures a call of the encoder
PROBE_STEPS = 100
PROBE_PENALTY = 0.3  # of the squared weights, for each channel: the best on photographs held out


def word_probe(encoder: keras.Model, pictures: np.ndarray, labels: np.ndarray) -> keras.Model:
    """A linear classifier of words for an encoder that has none.

    Logistic regression of the mean of the grid with a penalty on the squared weights, all words at
    once. The Hessian is bounded by a quarter of that of least squares (Böhning and Lindsay 1988,
    "Monotonicity of quadratic-approximation algorithms"), which in the principal axes of the
    features is diagonal: each step is a division, and none makes the loss larger.

    Args:
        encoder: pictures (n, size, size, 3) to a grid (n, rows, columns, channels).
        pictures: (n, size, size, 3) uint8, some hundred.
        labels: (n, words), 1 where the word fits the picture, else 0.

    Returns:
        A model from the grid to logits (n, words): the mean of the cells, then a linear layer.
    """
    grid_of = grid_function(encoder, PROBE_BATCH)
    starts = range(0, len(pictures), PROBE_BATCH)
    starts = tqdm(starts, "pictures for the word probe", unit="batch", disable=None)
    batches = [grid_of(pictures[start : start + PROBE_BATCH]) for start in starts]
    features = np.concatenate([batch.mean(axis=1, dtype=np.float64) for batch in batches])
    weights, bias = fit_logistic(features, labels)
    grid = keras.Input(encoder.output_shape[1:], name="grid")
    linear = layers.Dense(labels.shape[1], kernel_initializer="zeros", name="word_logits")
    probe = keras.Model(
        grid, linear(layers.GlobalAveragePooling2D(name="mean")(grid)), name="words"
    )
    linear.set_weights([weights, bias])
    return probe


def fit_logistic(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Penalised logistic regressions of standardised features, for features as they are.

    Args:
        features: (n, channels).
        labels: (n, words) of 0 and 1.

    Returns:
        weights (channels, words) and bias (words,).
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 1e-6, deviation, 1)  # a constant channel gets no weight
    u, s, v = np.linalg.svd((features - mean) / deviation, full_matrices=False)
    # The axes are orthogonal to the constant too, since the features are centred.
    axes = np.column_stack([u * s, np.ones(len(u))])
    penalty = np.append(np.full(len(s), PROBE_PENALTY * features.shape[1]), 1.0)[:, None]
    curvature = (axes**2).sum(axis=0)[:, None] / 4 + penalty
    found = np.zeros((len(penalty), labels.shape[1]))
    for _ in range(PROBE_STEPS):
        missing = labels - 1 / (1 + np.exp(-(axes @ found)))
        found += (axes.T @ missing - penalty * found) / curvature
    weights = v.T @ found[:-1] / deviation[:, None]
    return weights, found[-1] - mean @ weights
