"""The bundle as one TensorFlow SavedModel: JPEG files in, captions out, without this package.

TensorFlow Serving, C++, Java and Go load such a folder. Everything is in its graph: the picture is
decoded, turned as its Exif orientation says, resized and compressed once more, as `raster.prepare`
does for training; then come the CNN, the beam search, and the words. TensorFlow's decoder and its
bicubic filter differ from Pillow's by a level of brightness here and there, so that now and then a
caption differs by a word. What people say of similar pictures (`consensus`) has no say in it.
Sources: Exif 2.32, sections 4.5.4 and 4.6.2 (where the orientation is).
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from captioner.bundle import Captioner, Preparation
from captioner.files import atomic_folder
from captioner.graph import graph_function
from captioner.text import PAD

FILES = ("saved_model.pb", "fingerprint.pb", "variables/variables.*", "assets/")
MARK = ("saved_model.pb", b"log_probability")  # an output that others' models have not
HEAD = 65536  # bytes of a JPEG in which the orientation is looked for
ENTRIES = 64  # of the first Exif directory
ORIENTATION = 0x0112
TURNS = (  # of (height, width, 3) for the orientations 1 to 8
    lambda x: x,
    tf.image.flip_left_right,
    lambda x: tf.image.rot90(x, 2),
    tf.image.flip_up_down,
    lambda x: tf.transpose(x, (1, 0, 2)),
    lambda x: tf.image.rot90(x, 3),
    lambda x: tf.transpose(tf.image.rot90(x, 2), (1, 0, 2)),
    tf.image.rot90,
)


class _Served(tf.Module):
    """What is saved: `caption` is its signature `serving_default`."""

    def __init__(self, captioner: Captioner):
        super().__init__()
        self.parts = captioner.parts  # so that their weights are saved
        words = tf.constant([word.encode() for word in captioner.vocabulary.words])
        preparation = captioner.preparation

        @graph_function(input_signature=[tf.TensorSpec([None], tf.string, name="jpeg")])
        def caption(jpeg: tf.Tensor) -> dict[str, tf.Tensor]:
            size = (preparation.size, preparation.size, 3)
            pixels = tf.map_fn(
                lambda data: tf.ensure_shape(_prepared(data, preparation), size),
                jpeg,
                fn_output_signature=tf.TensorSpec(size, tf.uint8),
            )
            found, log_probabilities = captioner.search(pixels)
            said = tf.where(found == PAD, "", tf.gather(words, found))
            text = tf.strings.strip(tf.strings.reduce_join(said, 1, separator=" "))
            return {"caption": text, "log_probability": log_probabilities}

        self.caption = caption


def export(captioner: Captioner, folder: Path | str) -> None:
    """Write the SavedModel, whole or not at all.

    Its signature `serving_default` takes `jpeg` (pictures,) string, files as they are, and returns
    `caption` (pictures,) string, words with blanks between them, and `log_probability` (pictures,)
    float32, the natural logarithm of each caption's probability.

    Args:
        folder: takes the place of an older one, and of nothing else.
    """
    with atomic_folder(folder, FILES, MARK) as new:
        served = _Served(captioner)
        tf.saved_model.save(served, str(new), {"serving_default": served.caption})


def _prepared(data: tf.Tensor, preparation: Preparation) -> tf.Tensor:
    """What `raster.prepare` and `raster.decode` make of a JPEG, (size, size, 3) uint8."""
    size, pixels = preparation.size, tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
    turns = [lambda turn=turn: tf.ensure_shape(turn(pixels), (None, None, 3)) for turn in TURNS]
    pixels = tf.switch_case(_orientation(data) - 1, turns)
    height, width = tf.unstack(tf.shape(pixels)[:2])
    if preparation.fit == "crop":
        side = tf.minimum(height, width)
        pixels = tf.image.crop_to_bounding_box(
            pixels, (height - side) // 2, (width - side) // 2, side, side
        )
    if preparation.fit == "pad":
        scale = size / tf.cast(tf.maximum(height, width), tf.float64)
        inner = tf.cast(tf.round(scale * tf.cast((height, width), tf.float64)), tf.int32)
        pixels = _resized(pixels, tf.maximum(inner, 1))
        inner = tf.shape(pixels)[:2]
        corner = (size - inner) // 2
        pixels = tf.image.pad_to_bounding_box(pixels, corner[0], corner[1], size, size)
    else:
        pixels = _resized(pixels, tf.constant((size, size)))
    again = tf.io.encode_jpeg(
        pixels, quality=preparation.jpeg_quality, chroma_downsampling=False, optimize_size=False
    )
    return tf.io.decode_jpeg(again, 3, dct_method="INTEGER_ACCURATE")


def _resized(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(pixels, size, tf.image.ResizeMethod.BICUBIC, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _orientation(data: tf.Tensor) -> tf.Tensor:
    """The Exif orientation, 1 to 8; 1 where there is none, or nothing sound."""
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, HEAD), tf.uint8), tf.int64)
    head = tf.concat([head, tf.zeros(16, tf.int64)], 0)
    size = tf.size(head, tf.int64)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.gather(head, tf.clip_by_value(at, 0, size - 1))

    mark = np.frombuffer(b"Exif\0\0", np.uint8).astype(np.int64)
    starts = tf.range(size - len(mark) + 1)
    found = tf.reduce_all(byte(starts[:, None] + tf.range(len(mark), dtype=tf.int64)) == mark, 1)
    base = tf.argmax(found) + len(mark)
    little = byte(base) == ord("I")

    def number(at: tf.Tensor, width: int) -> tf.Tensor:
        there = byte(at[..., None] + tf.range(width, dtype=tf.int64))
        places = tf.range(width, dtype=tf.int64)
        places = tf.where(little, places, width - 1 - places)
        return tf.reduce_sum(there * 256**places, -1)

    directory = base + number(base + 4, 4)
    entries = directory + 2 + 12 * tf.range(ENTRIES, dtype=tf.int64)
    inside = tf.range(ENTRIES, dtype=tf.int64) < number(directory, 2)
    matching = inside & (number(entries, 2) == ORIENTATION) & (entries + 12 <= size)
    value = tf.reduce_max(tf.where(matching, number(entries + 8, 2), 1))
    sound = tf.reduce_any(found) & (value >= 1) & (value <= len(TURNS))
    return tf.where(sound, tf.cast(value, tf.int32), 1)
