"""The CNN that sees: a backbone that turns pictures into a grid of feature vectors.

Either a classic with ImageNet weights from `keras.applications`, or a network trained here from
scratch: the small one of `cnn.py` on words, the course's of `course_cnn.py` on classes. All are
used alike: uint8 pictures in, a grid of features out. Each backbone brings the pixel scaling that
its weights were trained with.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import applications, layers

from captioner import CaptionerError
from captioner.cnn import build_cnn
from captioner.course_cnn import build_course_cnn
from captioner.fetch import find_in_mirror
from captioner.files import read_json, write_json


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    Attributes:
        build: its constructor.
        weights: file name of the published ImageNet weights without the classifier.
        scaling: what its weights expect, in the words of `keras.applications`: "tf" is [-1, 1],
            "caffe" is BGR less the ImageNet mean, "none" if the network scales by itself.
    """

    build: Callable[..., keras.Model]
    weights: str
    scaling: str


_KERNELS = "weights_tf_dim_ordering_tf_kernels"
BACKBONES = {
    "mobilenet_v2": Backbone(
        applications.MobileNetV2, f"mobilenet_v2_{_KERNELS}_1.0_224_no_top.h5", "tf"
    ),
    "resnet50": Backbone(applications.ResNet50, f"resnet50_{_KERNELS}_notop.h5", "caffe"),
    "inception_v3": Backbone(applications.InceptionV3, f"inception_v3_{_KERNELS}_notop.h5", "tf"),
    "efficientnet_v2_b0": Backbone(
        applications.EfficientNetV2B0, "efficientnetv2-b0_notop.h5", "none"
    ),
    "vgg16": Backbone(applications.VGG16, f"vgg16_{_KERNELS}_notop.h5", "caffe"),
    "convnext_tiny": Backbone(applications.ConvNeXtTiny, "convnext_tiny_notop.h5", "none"),
}


def find_weights(backbone: str) -> str:
    """The file of a backbone's ImageNet weights in the mirror folder, else "imagenet".

    For "imagenet" Keras fetches the published file and checks it.
    """
    found = find_in_mirror(BACKBONES[backbone].weights, None, None)
    return "imagenet" if found is None else str(found)


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


def save_encoder(encoder: keras.Model, backbone: str, size: int, folder: Path) -> None:
    """Write config.json and weights.weights.h5 into an existing folder."""
    config = {"backbone": backbone, "size": size}
    if backbone == "course_cnn":
        config["classes"] = encoder.get_layer("evidence").classes
    write_json(folder / "config.json", config)
    encoder.save_weights(folder / "weights.weights.h5")


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
        backbone, size = config["backbone"], config["size"]
        encoder = build_encoder(backbone, size, classes=config.get("classes"))
        encoder.load_weights(folder / "weights.weights.h5")
    # h5py raises nearly all of these.
    except (CaptionerError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable encoder ({reason}); run the encoder stage"
        ) from error
    return encoder, size


def grid_function(encoder: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the encoder for batches of up to `batch_size` pictures.

    Returns:
        a function from (n, size, size, 3) uint8, n <= batch_size, to (n, cells, channels) float16.
    """
    size = encoder.input_shape[1]
    _, rows, columns, channels = encoder.output_shape

    @tf.function(input_signature=[tf.TensorSpec((batch_size, size, size, 3), tf.uint8)])
    def compiled(pictures):
        grid = encoder(tf.cast(pictures, tf.float32), training=False)
        grid = tf.reshape(grid, (batch_size, rows * columns, channels))
        # float16 ends at 65504; no trained backbone comes near, but infinity would spread.
        return tf.cast(tf.clip_by_value(grid, -6e4, 6e4), tf.float16)

    def run(pictures: np.ndarray) -> np.ndarray:
        missing = batch_size - len(pictures)
        padded = np.pad(pictures, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return compiled(padded).numpy()[: len(pictures)]

    return run


def extract_features(
    encoder: keras.Model,
    batches: Iterable[tuple[int, np.ndarray]],
    pictures: int,
    batch_size: int,
    folder: Path,
) -> tuple[int, int]:
    """Write grid.npy and pooled.npy (the mean over the cells) for all pictures.

    Args:
        encoder: from `build_encoder` or `load_encoder`.
        batches: (number of the first picture, (n, size, size, 3) uint8), n <= batch_size.
        pictures: how many there are in all.
        batch_size: pictures a call of the CNN.
        folder: existing folder for the two files.

    Returns:
        cells and channels of the grid.
    """
    grid_of = grid_function(encoder, batch_size)
    _, rows, columns, channels = encoder.output_shape
    cells = rows * columns
    grid = _new_array(folder / "grid.npy", (pictures, cells, channels))
    pooled = _new_array(folder / "pooled.npy", (pictures, channels))
    for first, batch in batches:
        found = grid_of(batch)
        grid[first : first + len(batch)] = found
        pooled[first : first + len(batch)] = found.mean(axis=1, dtype=np.float32)
    grid.flush()
    pooled.flush()
    return cells, channels


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
