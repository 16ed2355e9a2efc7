"""The course's CNN: the network with which many begin, as a classifier and as an encoder.

Two convolutions, flatten, softmax. Its flat layer has a weight for every cell, channel and class,
so what the classifier knows can be taken apart: cell i adds x[i] . W[i, :, k] to the logit of class
k, and the sum of these contributions over all cells, plus the bias, is the logit (as in Zhou et al.
2016, "Learning Deep Features for Discriminative Localization", equation 2, but with weights for
each cell). The encoder's grid holds them for blocks of cells: small enough to store for every
picture, and nothing that the classifier knows is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from captioner import CaptionerError
from captioner.checkpoints import State
from captioner.cnn import Decode, passes, resumable
from captioner.graph import graph_function

FILTERS = (64, 32)  # of the two convolutions of 3x3, without padding
BLOCKS = 6  # a side, or up to two more where the cells do not divide by it
MOST_WEIGHTS = 2**25  # of the flat layer; the optimizer keeps three times as much in memory


@keras.saving.register_keras_serializable("captioner")
class Evidence(layers.Layer):
    """The flat layer, block by block: feature map (n, side, side, channels) to a grid.

    A block is a square of side // 6 cells, so that there are 6 to 8 blocks a side; the last ones of
    a row or column hold fewer cells where it does not divide. The grid (n, blocks, blocks, channels
    + classes) holds for each block the mean of each channel over its own cells, then what they add
    to the logit of each class. Kernel and bias are those of `Dense` after `Flatten`.
    """

    def __init__(self, classes: int, **options):
        super().__init__(**options)
        self.classes = classes

    def build(self, shape):
        _, side, _, channels = shape
        self.side, self.channels = side, channels
        self.block = max(1, side // BLOCKS)
        self.blocks = -(-side // self.block)
        self.kernel = self.add_weight(
            (side * side * channels, self.classes), initializer="glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight((self.classes,), initializer="zeros", name="bias")
        cells = np.minimum(self.block, side - self.block * np.arange(self.blocks))
        self._cells = np.outer(cells, cells)[..., None].astype(np.float32)  # of each block

    def call(self, x):
        missing = self.blocks * self.block - self.side
        kernel = ops.reshape(self.kernel, (self.side, self.side, self.channels, self.classes))
        if missing:
            x = ops.pad(x, ((0, 0), (0, missing), (0, missing), (0, 0)))
            kernel = ops.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
        rows = (self.blocks, self.block, self.blocks, self.block)
        x = ops.reshape(x, (-1, *rows, self.channels))
        kernel = ops.reshape(kernel, (*rows, self.channels, self.classes))
        means = ops.sum(x, axis=(2, 4)) / self._cells
        evidence = ops.einsum("nrpsqc,rpsqck->nrsk", x, kernel)
        return ops.concatenate([means, evidence], axis=-1)

    def compute_output_shape(self, shape):
        return (shape[0], self.blocks, self.blocks, self.channels + self.classes)


@keras.saving.register_keras_serializable("captioner")
class Logits(layers.Layer):
    """The evidence of all blocks and the bias: the logits of the classifier."""

    def __init__(self, evidence: Evidence, **options):
        super().__init__(**options)
        self.evidence = evidence

    def call(self, grid):
        return ops.sum(grid[..., -self.evidence.classes :], axis=(1, 2)) + self.evidence.bias


def build_course_cnn(size: int, classes: int) -> keras.Model:
    """Pictures (n, size, size, 3) in 0..255 to the grid of `Evidence`; colours become grey.

    Args:
        size: side of the pictures in pixels, at least 5.
        classes: outputs of the classifier.

    Raises:
        CaptionerError: the flat layer would be too large.
    """
    weights = (size - 4) ** 2 * FILTERS[-1] * classes
    if weights > MOST_WEIGHTS:
        raise CaptionerError(
            f"encoder.backbone course_cnn: {classes} classes and pictures of {size} pixels need "
            f"{weights:,} weights, more than {MOST_WEIGHTS:,}: make preprocess.side smaller, or "
            "name a label of fewer classes"
        )
    pictures = keras.Input((size, size, 3), name="pictures")
    x = layers.Rescaling(1 / 255, name="scale")(ops.mean(pictures, axis=-1, keepdims=True))
    for number, filters in enumerate(FILTERS, 1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{number}")(x)
    return keras.Model(pictures, Evidence(classes, name="evidence")(x), name="course_cnn")


def build_head(encoder: keras.Model) -> keras.Model:
    """The classifier on top of the grid: grid (n, blocks, blocks, channels) to logits (n, classes).

    It has no weights of its own: the bias is the encoder's.
    """
    grid = keras.Input(encoder.output_shape[1:], name="grid")
    return keras.Model(grid, Logits(encoder.get_layer("evidence"))(grid), name="classes")


@dataclass(frozen=True)
class Epoch:
    """Cross-entropy (nats a picture) and accuracy: of the training, during it, and of the test."""

    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float


def train_course_cnn(
    encoder: keras.Model,
    head: keras.Model,
    decode: Decode,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    state: State | None = None,
) -> Iterator[Epoch]:
    """Train the encoder in place; yields after each epoch.

    Args:
        encoder, head: from `build_course_cnn` and `build_head`.
        decode: picture numbers (n,) to pictures (n, size, size, 3) uint8.
        train, test: picture numbers (n,) and classes (n,); nothing is chosen by the test.
        epochs, batch_size: passes and pictures a step.
        learning_rate: of Adam, constant.
        seed: of the order of the pictures.
        state: as for `cnn.train_cnn`.

    Raises:
        CaptionerError: the loss is no number any more.
    """
    numbers, classes = train
    optimizer = keras.optimizers.Adam(learning_rate)
    weights = encoder.trainable_variables
    optimizer.build(weights)
    # One graph for all batches, the small last one too.
    signature = [
        tf.TensorSpec((None, *encoder.input_shape[1:]), tf.uint8),
        tf.TensorSpec((None,), tf.int32),
    ]

    @graph_function(input_signature=signature)
    def step(pictures, truth):
        with tf.GradientTape() as tape:
            logits = head(encoder(tf.cast(pictures, tf.float32), training=True))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, 1, tf.int32) == truth, tf.int32))
        return loss, right, tf.size(truth)

    def load(chosen):
        return decode(numbers[chosen]), classes[chosen].astype(np.int32)

    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    everything = encoder.weights + optimizer.variables

    def measured(done: int) -> Iterator[Epoch]:
        for steps in passes(step, load, len(numbers), seed=seed, done=done, **options):
            found = predict(encoder, head, decode, test[0], batch_size)
            of_truth = found[np.arange(len(found)), test[1]]
            yield Epoch(
                sum(loss * count for loss, _, count in steps) / len(numbers),
                sum(right for _, right, _ in steps) / len(numbers),
                float(-np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean()),
                float((found.argmax(axis=1) == test[1]).mean()),
            )

    yield from resumable(measured, Epoch, encoder.weights, everything, epochs, state)


def predict(
    encoder: keras.Model, head: keras.Model, decode: Decode, numbers: np.ndarray, batch_size: int
) -> np.ndarray:
    """The probabilities of the classes (softmax): (n, classes) float32 for picture numbers (n,)."""

    @graph_function(input_signature=[tf.TensorSpec((None, *encoder.input_shape[1:]), tf.uint8)])
    def compiled(pictures):
        return tf.nn.softmax(head(encoder(tf.cast(pictures, tf.float32), training=False)))

    starts = range(0, len(numbers), batch_size)
    parts = [compiled(decode(numbers[start : start + batch_size])).numpy() for start in starts]
    return np.concatenate(parts)
