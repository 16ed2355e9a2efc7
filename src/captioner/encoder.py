"""The CNN that sees: a backbone that turns pictures into a grid of feature vectors.

Either a classic with ImageNet weights from `keras.applications`, or a network trained here from
scratch: the small one of `cnn.py` on words, the course's of `course_cnn.py` on classes. All are
used alike: uint8 pictures in, a grid of features out. Each backbone brings the pixel scaling that
its weights were trained with.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np
import tensorflow as tf
from keras import applications, layers
from keras.src.backend.config import keras_home

from captioner import CaptionerError
from captioner.checkpoints import check_weights, load_arrays, load_weights, save_weights
from captioner.cnn import build_cnn, build_head
from captioner.course_cnn import build_course_cnn
from captioner.fetch import find_in_mirror
from captioner.files import read_json, reserve, write_json
from captioner.graph import graph_function


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    Attributes:
        build: its constructor.
        weights: file name of the published ImageNet weights without the classifier.
        scaling: what its weights expect, in the words of `keras.applications`: "tf" is [-1, 1],
            "caffe" is BGR less the ImageNet mean, "none" if the network scales by itself.
        cut: the layer below the last stage, whose output is all that the stage is fed with; what
            is above it is fine-tuned (see `fine_tuning`).
    """

    build: Callable[..., keras.Model]
    weights: str
    scaling: str
    cut: str


_KERNELS = "weights_tf_dim_ordering_tf_kernels"
BACKBONES = {
    "mobilenet_v2": Backbone(
        applications.MobileNetV2,
        f"mobilenet_v2_{_KERNELS}_1.0_224_no_top.h5",
        "tf",
        "block_12_add",
    ),
    "resnet50": Backbone(
        applications.ResNet50, f"resnet50_{_KERNELS}_notop.h5", "caffe", "conv4_block6_out"
    ),
    "inception_v3": Backbone(
        applications.InceptionV3, f"inception_v3_{_KERNELS}_notop.h5", "tf", "mixed7"
    ),
    "efficientnet_v2_b0": Backbone(
        applications.EfficientNetV2B0, "efficientnetv2-b0_notop.h5", "none", "block5e_add"
    ),
    "vgg16": Backbone(applications.VGG16, f"vgg16_{_KERNELS}_notop.h5", "caffe", "block4_pool"),
    "convnext_tiny": Backbone(
        applications.ConvNeXtTiny,
        "convnext_tiny_notop.h5",
        "none",
        "convnext_tiny_downsampling_block_2",
    ),
}

LARGEST_SIDE = 1024  # pixels, of a stored encoder's pictures


def fetch_weights(backbone: str) -> Path:
    """The file of a backbone's ImageNet weights: in the mirror, else where Keras keeps downloads.

    Keras fetches the published file if it is not there, and checks it.

    Raises:
        CaptionerError: they cannot be had.
    """
    name = BACKBONES[backbone].weights
    found = find_in_mirror(name, None, None)
    if found is not None:
        return found
    build_encoder(backbone, 224, "imagenet")
    return Path(keras_home()).expanduser() / "models" / name


def build_encoder(
    backbone: str, size: int, weights: str | Path | None = None, classes: int | None = None
) -> keras.Model:
    """Build a backbone.

    Args:
        backbone: "cnn", "course_cnn" or a key of `BACKBONES`.
        size: side of the pictures in pixels.
        weights: None for a random start, "imagenet" for Keras's own download (checksums are
            Keras's), or a path in the layout of `keras.applications`.
        classes: how many course_cnn tells apart; no other backbone asks.

    Returns:
        A model from pictures (n, size, size, 3) uint8 or float in 0..255 to (n, h, w, channels).

    Raises:
        CaptionerError: the weights cannot be had or do not fit, or are too many.
    """
    if backbone == "cnn":
        return build_cnn(size)
    if backbone == "course_cnn":
        return build_course_cnn(size, classes)
    chosen = BACKBONES[backbone]
    pictures = keras.Input((size, size, 3), name="pictures")
    scaled = _scale(pictures, chosen.scaling)
    shape = (size, size, 3)
    source = None if weights is None else str(weights)
    try:
        network = chosen.build(include_top=False, weights=source, input_shape=shape)
    except Exception as error:  # Keras raises many kinds: network, checksum, shapes
        reason = " ".join(str(error).split())[:300]
        raise CaptionerError(
            f"encoder.backbone {backbone}: cannot load its ImageNet weights ({reason}); put "
            f"{chosen.weights} into the folder that CAPTIONER_MIRROR names"
        ) from error
    network.trainable = False
    return keras.Model(pictures, network(scaled), name=backbone)


def _scale(pictures, scaling: str):
    if scaling == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pictures)
    if scaling == "caffe":
        mean_bgr = [103.939, 116.779, 123.68]
        return layers.Normalization(
            mean=mean_bgr, variance=[1.0] * 3, axis=-1, name="subtract_mean"
        )(pictures[..., ::-1])
    return pictures


def save_encoder(
    encoder: keras.Model, backbone: str, size: int, folder: Path, source: Path | None = None
) -> None:
    """Write config.json and weights.weights.h5 into an existing folder.

    Args:
        source: the file of ImageNet weights that it started from; its name and sha256 are noted.
    """
    config: dict[str, object] = {"backbone": backbone, "size": size}
    if source is not None:
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        config["imagenet_weights"] = {"name": source.name, "sha256": sha256}
    if backbone == "course_cnn":
        config["classes"] = encoder.get_layer("evidence").classes
    write_json(folder / "config.json", config)
    save_weights(encoder, folder / "weights.weights.h5")


def load_encoder(folder: Path | str) -> tuple[keras.Model, int]:
    """Read what `save_encoder` wrote.

    Returns:
        the model and the side of the pictures it takes, in pixels.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        backbone, size, classes = config["backbone"], config["size"], config.get("classes")
        if type(size) is not int or not 0 < size <= LARGEST_SIDE:
            raise ValueError(f"size: {size!r:.60}, expected a number from 1 to {LARGEST_SIDE}")
        if backbone == "course_cnn" and (type(classes) is not int or classes < 1):
            raise ValueError(f"classes: {classes!r:.60}, expected a number from 1 on")
        check_weights(folder / "weights.weights.h5")
        encoder = build_encoder(backbone, size, classes=classes)
        load_weights(encoder, folder / "weights.weights.h5")
    # h5py raises nearly all of these.
    except (CaptionerError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable encoder ({reason}); run the encoder stage"
        ) from error
    return encoder, size


def save_words(head: keras.Model, words: Sequence[str], folder: Path) -> None:
    """Write a head of `cnn.build_head` beside the encoder: words.json, and weights in words.npz."""
    write_json(folder / "words.json", list(words))
    np.savez(folder / "words.npz", *head.get_weights())


def load_words(folder: Path | str, encoder: keras.Model) -> tuple[keras.Model | None, list[str]]:
    """Read what `save_words` wrote; (None, []) where an encoder has learnt no words.

    Args:
        folder: of the encoder.
        encoder: from `load_encoder`.

    Returns:
        the head, from the grid to logits (n, words), and the words.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / "words.json").exists():
        return None, []
    try:
        words = read_json(folder / "words.json")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("words.json is no list of words")
        head = build_head(encoder, len(words), seed=0)
        head.set_weights(load_arrays(folder / "words.npz"))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable word head ({reason}); run the encoder stage"
        ) from error
    return head, words


def word_function(head: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a word head for grids as they are stored.

    Returns:
        a function from (n, cells, channels) float16 to probabilities (n, words) float16.
    """
    _, rows, columns, channels = head.input_shape

    @graph_function(input_signature=[tf.TensorSpec((None, rows * columns, channels), tf.float16)])
    def compiled(grid):
        grid = tf.reshape(tf.cast(grid, tf.float32), (-1, rows, columns, channels))
        return tf.cast(tf.sigmoid(head(grid, training=False)), tf.float16)

    return lambda grid: compiled(grid).numpy()


def grid_function(encoder: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the encoder for batches of up to `batch_size` pictures.

    Returns:
        a function from (n, size, size, 3) uint8, n <= batch_size, to (n, cells, channels) float16.
    """
    size = encoder.input_shape[1]

    @graph_function(input_signature=[tf.TensorSpec((batch_size, size, size, 3), tf.uint8)])
    def compiled(pictures):
        return encoded(encoder, pictures)

    def run(pictures: np.ndarray) -> np.ndarray:
        missing = batch_size - len(pictures)
        padded = np.pad(pictures, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return compiled(padded).numpy()[: len(pictures)]

    return run


def encoded(encoder: keras.Model, pictures: tf.Tensor) -> tf.Tensor:
    """(n, size, size, 3) uint8 to (n, cells, channels) float16; for use inside a `tf.function`."""
    grid = encoder(tf.cast(pictures, tf.float32), training=False)
    _, rows, columns, channels = encoder.output_shape
    grid = tf.reshape(grid, (-1, rows * columns, channels))
    # float16 ends at 65504; no trained backbone comes near, but infinity would spread.
    return tf.cast(tf.clip_by_value(grid, -6e4, 6e4), tf.float16)


def extract_features(
    encoder: keras.Model,
    batches: Iterable[tuple[int, np.ndarray]],
    pictures: int,
    batch_size: int,
    folder: Path,
    *,
    mirrored: np.ndarray | None = None,
    head: keras.Model | None = None,
) -> tuple[int, int]:
    """Write what an encoder makes of all pictures, in float16.

    grid.npy            (pictures, cells, channels), cells row by row
    pooled.npy          (pictures, channels), the mean over the cells
    grid_mirrored.npy   (len(mirrored), cells, channels), and
    pooled_mirrored.npy (len(mirrored), channels): row r is of picture mirrored[r] with left and
                        right swapped; its cells go from the left to the right of what is seen then
    words.npy           (pictures, words), probabilities; where there is a head

    Args:
        encoder: from `build_encoder` or `load_encoder`.
        batches: (number of the first picture, (n, size, size, 3) uint8), n <= batch_size.
        pictures: how many there are in all.
        batch_size: pictures a call of the CNN.
        folder: existing folder for the files.
        mirrored: numbers, ascending, of the pictures that are also seen mirrored; None for no such
            files.
        head: from `load_words`.

    Returns:
        cells and channels of the grid.
    """
    grid_of = grid_function(encoder, batch_size)
    _, rows, columns, channels = encoder.output_shape
    cells = rows * columns

    shapes = {"grid": (pictures, cells, channels), "pooled": (pictures, channels)}
    if mirrored is not None:
        shapes |= {f"{name}_mirrored": (len(mirrored), *shapes[name][1:]) for name in shapes}
    if head is not None:
        shapes["words"], words_of = (pictures, head.output_shape[1]), word_function(head)
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape
        )
        for name, shape in shapes.items()
    }
    for name in arrays:
        reserve(folder / f"{name}.npy")

    def write(places: np.ndarray, seen: np.ndarray, suffix: str = "") -> np.ndarray:
        found = grid_of(seen)
        arrays[f"grid{suffix}"][places] = found
        arrays[f"pooled{suffix}"][places] = found.mean(axis=1, dtype=np.float32)
        return found

    for first, batch in batches:
        numbers = np.arange(first, first + len(batch))
        found = write(numbers, batch)
        if head is not None:
            arrays["words"][numbers] = words_of(found)
        if mirrored is not None and (turned := np.isin(numbers, mirrored)).any():
            places = np.searchsorted(mirrored, numbers[turned])
            write(places, batch[turned][:, :, ::-1], "_mirrored")
    for array in arrays.values():
        array.flush()
    return cells, channels
