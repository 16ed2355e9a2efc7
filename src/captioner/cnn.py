"""A small CNN trained here from scratch, for data that look like no photograph.

It learns to say which of the captions' frequent content words fit a picture (`word_labels`): weak
labels, since nobody says where in the picture the word is. As in "From Captions to Visual Concepts
and Back" (Fang et al. 2015, section 3) each cell of the grid answers for itself and the picture's
answer is a soft maximum over the cells; so a cell comes to hold what lies there, which is what
attention needs later.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

from captioner import CaptionerError
from captioner.checkpoints import LAST, State, assign
from captioner.graph import graph_function

Decode = Callable[[np.ndarray], np.ndarray]
Result = TypeVar("Result")  # of an epoch

# Convolutions of 3x3 with this many filters; a pooling of 2x2 halves the grid at each "pool".
LAYERS = (16, "pool", 32, 48, "pool", 64, 128, "pool")


def build_cnn(size: int) -> keras.Model:
    """Pictures (n, size, size, 3) in 0..255 to a grid (n, size / 8, size / 8, 128)."""
    pictures = keras.Input((size, size, 3), name="pictures")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pictures)
    for number, layer in enumerate(LAYERS):
        if layer == "pool":
            x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
            continue
        x = layers.Conv2D(layer, 3, padding="same", use_bias=False, name=f"conv_{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(x)
    return keras.Model(pictures, x, name="cnn")


def build_head(encoder: keras.Model, labels: int, seed: int) -> keras.Model:
    """Word logits of each cell, then their soft maximum: log of the mean of exp.

    Args:
        encoder: pictures to a grid (n, rows, columns, channels).
        labels: how many words.
        seed: of the start.

    Returns:
        A model from the grid (n, rows, columns, channels) to logits (n, labels).
    """
    grid = keras.Input(encoder.output_shape[1:])
    start = keras.initializers.GlorotUniform(seed)
    logits = layers.Dense(labels, kernel_initializer=start, name="word_logits")(grid)
    cells = float(grid.shape[1] * grid.shape[2])
    pooled = keras.ops.logsumexp(logits, axis=(1, 2)) - float(np.log(cells))
    return keras.Model(grid, pooled, name="words")


@dataclass(frozen=True)
class Epoch:
    """Losses (binary cross-entropy, nats a label), F1 of all labels together at threshold 0.5."""

    loss: float
    val_loss: float
    val_f1: float


def train_cnn(
    encoder: keras.Model,
    head: keras.Model,
    decode: Decode,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    state: State | None = None,
) -> Iterator[Epoch]:
    """Train encoder and head in place; yields after each epoch.

    Args:
        encoder, head: from `build_cnn` and `build_head`.
        decode: picture numbers (n,) to pictures (n, size, size, 3) uint8.
        train, val: picture numbers (n,) and labels (n, labels).
        epochs, batch_size: passes and pictures a step.
        learning_rate: peak of a cosine schedule with a short warm-up.
        seed: of the order of the pictures.
        state: what a killed training left is used, finished epochs are kept there; None for a
            training that keeps nothing.

    Raises:
        CaptionerError: the loss is no number any more.
    """
    numbers, labels = train
    schedule = warm_cosine(learning_rate, epochs, -(-len(numbers) // batch_size))
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    weights = encoder.trainable_variables + head.trainable_variables
    optimizer.build(weights)

    @graph_function(input_signature=signature(encoder, head))
    def step(pictures, truth):
        with tf.GradientTape() as tape:
            logits = head(encoder(pictures, training=True))
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return (loss,)

    def load(places):
        chosen = np.sort(places)
        return decode(numbers[chosen]).astype(np.float32), labels[chosen].astype(np.float32)

    validate = validator(encoder, head, decode, val, batch_size)
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    everything = encoder.weights + head.weights + optimizer.variables

    def measured(done: int) -> Iterator[Epoch]:
        for steps in passes(step, load, len(numbers), seed=seed, done=done, **options):
            yield Epoch(float(np.mean([loss for (loss,) in steps])), *validate())

    yield from resumable(measured, Epoch, encoder.weights + head.weights, everything, epochs, state)


def resumable(
    train: Callable[[int], Iterator[Result]],
    result: type[Result],
    weights: Sequence[keras.Variable],
    everything: Sequence[keras.Variable],
    epochs: int,
    state: State | None,
) -> Iterator[Result]:
    """The epochs of a training that ends with its last weights; after a kill it goes on.

    Args:
        train: from the number of epochs that are done to what the other ones yield.
        result: the dataclass that it yields.
        weights: of the network.
        everything: that an epoch begins with: the weights and the optimizer's variables.
        epochs: how many there are to be.
        state: where finished epochs are kept; None for nowhere.
    """
    if state is None:
        yield from train(0)
        return
    history, last = state.resume_arrays("encoder", everything, epochs)
    yield from (result(**row) for row in history)
    for epoch in train(len(history)):
        history.append(vars(epoch))
        last = [weight.numpy() for weight in weights]
        state.keep_arrays(history, everything, last)
        yield epoch
    assign(weights, last)
    state.finish(LAST)


def warm_cosine(
    peak: float, epochs: int, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A warm-up of (at most) 100 of the `steps` of the first epoch, then a cosine to zero."""
    warm_up = min(100, steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / warm_up,
        max(1, steps * epochs - warm_up),
        warmup_target=peak,
        warmup_steps=warm_up,
    )


def passes(
    step: Callable[..., Sequence[tf.Tensor]],
    load: Callable[[np.ndarray], Sequence[np.ndarray]],
    pictures: int,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    done: int = 0,
) -> Iterator[list[list[float]]]:
    """Shuffled passes over the pictures, with a bar for each.

    Args:
        step: trains on what `load` returned; returns the loss and what else is to be known.
        load: places (n,), numbers below `pictures`, to what `step` takes.
        pictures: how many.
        epochs, batch_size: passes and pictures a step.
        learning_rate: as in params.yaml, for the message.
        seed: of the order of the pictures.
        done: epochs to leave out; the order of the others is the same for that.

    Yields:
        After each epoch what each step returned.

    Raises:
        CaptionerError: the loss is no number any more.
    """
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        order = rng.permutation(pictures)
        if epoch <= done:
            continue
        results = []
        starts = range(0, pictures, batch_size)
        for start in tqdm(starts, f"epoch {epoch}/{epochs}", unit="step", disable=None):
            values = step(*load(order[start : start + batch_size]))
            results.append([float(value) for value in values])
            if not np.isfinite(results[-1][0]):
                raise CaptionerError(
                    f"encoder: the loss is no number any more in step {len(results)} of epoch "
                    f"{epoch}: lower encoder.learning_rate ({learning_rate:.2g})"
                )
        yield results


def signature(encoder: keras.Model, head: keras.Model) -> list[tf.TensorSpec]:
    """Of pictures and labels: one graph for all batches, the small last one too."""
    shapes = (encoder.input_shape[1:], head.output_shape[1:])
    return [tf.TensorSpec((None, *shape), tf.float32) for shape in shapes]


def validator(
    encoder: keras.Model,
    head: keras.Model,
    decode: Decode,
    val: tuple[np.ndarray, np.ndarray],
    batch_size: int,
) -> Callable[[], tuple[float, float]]:
    """A function that returns loss and micro F1 over all pictures and labels of `val`."""
    numbers, labels = val

    @graph_function(input_signature=signature(encoder, head))
    def predict(pictures, truth):
        logits = head(encoder(pictures, training=False))
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, logits))
        return loss, logits > 0

    def validate() -> tuple[float, float]:
        total, hits, said = 0.0, 0, 0
        for start in range(0, len(numbers), batch_size):
            truth = labels[start : start + batch_size]
            pictures = decode(numbers[start : start + batch_size]).astype(np.float32)
            loss, found = predict(pictures, truth.astype(np.float32))
            found = found.numpy()
            total += float(loss) * len(truth)
            hits += int((found & (truth > 0)).sum())
            said += int(found.sum())
        wanted = int(labels.sum())
        f1 = 2 * hits / (said + wanted) if said + wanted else 0.0
        return total / max(1, len(numbers)), f1

    return validate
