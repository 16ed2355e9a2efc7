"""Fine-tuning: the upper part of a pretrained CNN learns which of the captions' words fit.

ImageNet's classes are not what captions speak of. As in "From Captions to Visual Concepts and Back"
(Fang et al. 2015, section 3) the network learns the captions' frequent words (`word_labels`), each
cell of the grid by itself (`cnn.build_head`). The general features of its lower part stay as they
are (Yosinski et al. 2014, "How transferable are features in deep neural networks?"), so what that
part makes of every picture and its mirror image is computed once and read from the disk afterwards.
BatchNorm keeps ImageNet's statistics: those of small batches would be noise.
"""

from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner import CaptionerError
from captioner.checkpoints import LAST, State, assign
from captioner.cnn import Epoch, passes, signature, validator, warm_cosine
from captioner.encoder import extract_features
from captioner.files import atomic_folder
from captioner.graph import graph_function

HEAD_RATE = 10.0  # the head starts from nothing: times the learning rate of the network
DROPOUT = 0.2  # share of the grid's channels that the head does not see in a step


def fine_tune(
    encoder: keras.Model,
    head: keras.Model,
    cut: str,
    batches: Iterable[tuple[int, np.ndarray]],
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    state: State,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Iterator[Epoch]:
    """Train what is above the cut, and the head, in place; yields after each epoch.

    When the last epoch was yielded, the weights are those of the epoch of least validation loss.

    Args:
        encoder: from `build_encoder`, with one of `BACKBONES`.
        head: from `cnn.build_head`; its bias is set to the words' log-odds.
        cut: name of the layer of the network that ends the lower part, see `Backbone`.
        batches: all pictures in order, as from `images.batches`, at most `batch_size` at a time;
            nothing is read where the state has their activations.
        train, val: picture numbers (n,), ascending, and labels (n, labels) of 0 and 1.
        state: what a killed training left is used; activations and finished epochs are kept there,
            the activations until the last epoch is done.
        epochs, batch_size: passes and pictures a step.
        learning_rate: of the network, peak of a cosine schedule with a short warm-up; the head's is
            `HEAD_RATE` times that.
        seed: of the order of the pictures, of what is mirrored and of dropout.

    Raises:
        CaptionerError: the loss is no number any more.
    """
    numbers, labels = train
    lower, upper = halves(encoder, cut)
    # Layer by layer: to set it for a model that has the value already does nothing.
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    frequency = labels.mean(axis=0) + 1e-4  # a word may be in no picture, or in all
    head.get_layer("word_logits").bias.assign(np.log(frequency / (1.0002 - frequency)))

    parts = [upper.trainable_variables, head.trainable_variables]
    steps = -(-len(numbers) // batch_size)
    rates = [learning_rate, HEAD_RATE * learning_rate]
    optimizers = [keras.optimizers.Adam(warm_cosine(rate, epochs, steps)) for rate in rates]
    for optimizer, weights in zip(optimizers, parts, strict=True):
        optimizer.build(weights)

    @graph_function(input_signature=signature(upper, head))
    def step(activations, truth):
        draw = tf.stack([seed, tf.cast(optimizers[0].iterations, tf.int32)])
        with tf.GradientTape() as tape:
            grid = upper(activations, training=False)
            channels = (tf.shape(grid)[0], 1, 1, grid.shape[-1])
            grid = tf.nn.experimental.stateless_dropout(grid, DROPOUT, draw, noise_shape=channels)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(truth, head(grid))
            # Summed over the words: gradients far above Adam's epsilon, however many they are.
            loss = tf.reduce_mean(tf.reduce_sum(losses, axis=1))
        for optimizer, weights, gradients in zip(
            optimizers, parts, tape.gradient(loss, parts), strict=True
        ):
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return (loss / labels.shape[1],)

    def load(places):
        chosen = np.sort(places)
        activations = plain[numbers[chosen]]
        # By the number of the step, so that a training that was killed goes on with the same ones.
        rng = np.random.default_rng([seed, int(optimizers[0].iterations)])
        turned = rng.random(len(chosen)) < 0.5
        activations[turned] = mirrored[chosen[turned]]
        return activations.astype(np.float32), labels[chosen].astype(np.float32)

    weights = parts[0] + parts[1]
    everything = weights + optimizers[0].variables + optimizers[1].variables
    rows, best = state.resume_arrays("encoder", everything, epochs)
    history = [Epoch(**row) for row in rows]
    yield from history
    if len(history) < epochs:
        plain, mirrored = _activations(lower, batches, numbers, val[0], batch_size, state)
    validate = validator(upper, head, lambda rows: plain[rows], val, batch_size)
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    for results in passes(step, load, len(numbers), seed=seed, done=len(history), **options):
        epoch = Epoch(float(np.mean([loss for (loss,) in results])), *validate())
        if not np.isfinite(epoch.val_loss):  # the last step was one too far
            raise CaptionerError(
                f"encoder: the loss is no number any more in the validation of epoch "
                f"{len(history) + 1}: lower encoder.learning_rate ({learning_rate:.2g})"
            )
        history.append(epoch)
        if epoch.val_loss == min(past.val_loss for past in history):
            best = [weight.numpy() for weight in weights]
        state.keep_arrays([vars(past) for past in history], everything, best)
        yield epoch
    state.finish("activations", LAST)  # gigabytes
    assign(weights, best)
    for layer in upper.layers:
        layer.trainable = False


def halves(encoder: keras.Model, cut: str) -> tuple[keras.Model, keras.Model]:
    """From the pictures to the output of the layer `cut`, and from there to the grid.

    They share the encoder's weights.
    """
    network = encoder.layers[-1]
    between = network.get_layer(cut).output
    scaled = encoder.operations[-2].output  # what the encoder feeds to the network
    lower = keras.Model(network.input, between)
    return keras.Model(encoder.input, lower(scaled)), keras.Model(between, network.output)


def _activations(
    lower: keras.Model,
    batches: Iterable[tuple[int, np.ndarray]],
    train: np.ndarray,
    val: np.ndarray,
    batch_size: int,
    state: State,
) -> tuple[np.ndarray, np.ndarray]:
    """Memory maps: of the pictures by their number, and of the training pictures mirrored."""
    folder = state.folder / "activations"
    if not folder.exists():
        count = int(max(train[-1], val.max(initial=0))) + 1
        total = -(-count // batch_size)
        bar = tqdm(_first(batches, count), "activations", total=total, unit="batch", disable=None)
        with atomic_folder(folder) as new:
            extract_features(lower, bar, count, batch_size, new, mirrored=train)
    maps = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("grid", "grid_mirrored"))
    plain, mirrored = (array.reshape(-1, *lower.output_shape[1:]) for array in maps)
    return plain, mirrored


def _first(batches: Iterable[tuple[int, np.ndarray]], count: int) -> Iterator:
    """The batches of the first `count` pictures."""
    for first, batch in batches:
        if first >= count:
            return
        yield first, batch[: count - first]
