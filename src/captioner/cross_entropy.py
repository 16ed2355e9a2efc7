"""The first objective: say the next word of people's captions, given the words before it."""

import numpy as np
import tensorflow as tf

from captioner.examples import Examples
from captioner.model import CaptionModel, Dropout
from captioner.packing import SIGNATURE, pack


class CrossEntropy:
    """Smoothed cross-entropy of all captions of a batch's pictures; see `training.Objective`.

    Args:
        model: the captioning model.
        examples: the training split.
        dropout: share of values set to zero.
        label_smoothing: see `smoothed_cross_entropy`.
    """

    name, measure, selects = "training", "loss", "val_cider_d"
    remedy = "train.learning_rate or train.clip_norm"

    def __init__(
        self, model: CaptionModel, examples: Examples, dropout: float, label_smoothing: float
    ):
        self.model, self.examples, self.names = model, examples, examples.names
        self.dropout, self.label_smoothing = dropout, label_smoothing
        self.signature = (features_signature(model), SIGNATURE)

    def batch(self, chosen: np.ndarray, seed: tuple[int, int]) -> tuple:
        """The pictures' features, some of them mirrored, and their captions."""
        features = self.examples.load(chosen, np.random.default_rng(seed))
        return features, pack(self.examples.tokens[chosen])

    def loss(self, batch: tuple, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reports the plain cross-entropy a word, in nats."""
        features, captions = batch
        logits = self.model.logits(features, captions, Dropout(self.dropout, seed))
        smoothed, plain = smoothed_cross_entropy(logits, captions.targets, self.label_smoothing)
        return smoothed, plain, tf.size(captions.targets)


def features_signature(model: CaptionModel) -> tf.TensorSpec:
    """Of the features of any number of pictures."""
    return tf.TensorSpec((None, model.config.cells, model.config.channels), tf.float16)


def smoothed_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, smoothing: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """What training minimises, and the plain cross-entropy that is reported.

    Args:
        logits: (words, vocabulary); targets: (words,) int32.
        smoothing: probability mass spread evenly over the vocabulary (Szegedy et al. 2016,
            section 7).

    Returns:
        The mean smoothed cross-entropy, and the sum of the plain ones, in nats.
    """
    log_probabilities = tf.nn.log_softmax(logits)
    loss = -tf.gather(log_probabilities, targets, batch_dims=1)
    uniform = -tf.reduce_mean(log_probabilities, -1)
    return tf.reduce_mean((1 - smoothing) * loss + smoothing * uniform), tf.reduce_sum(loss)
