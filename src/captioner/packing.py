"""Captions of different lengths laid out so that no computation is spent on padding.

The layout of PyTorch's PackedSequence: captions sorted by length, longest first; then the first
token of all of them, the second of all that have one, and so on. The LSTM takes it step by step,
and everything else treats it as one long list of tokens. Attention alone wants the tokens of a
picture side by side, and `by_picture` and `by_token` go there and back.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from captioner.text import PAD


class Packed(NamedTuple):
    """Captions of a number of pictures; arrays of int32, or tensors of the same.

    Attributes:
        inputs: (tokens,) what the LSTM reads: <start> and the words.
        targets: (tokens,) what it should say next: the words and <end>.
        counts: (steps,) captions that reach each step.
        pictures: (captions,) the picture of each caption.
        captions: (captions,) the place of each caption in what was packed, flattened.
        places: (tokens,) where each token stands when tokens are laid out by picture.
        slots: (pictures, most tokens of a picture) the token at each of those places, and the
            number of tokens where there is none.
    """

    inputs: np.ndarray
    targets: np.ndarray
    counts: np.ndarray
    pictures: np.ndarray
    captions: np.ndarray
    places: np.ndarray
    slots: np.ndarray


SIGNATURE = Packed(*[tf.TensorSpec([None], tf.int32)] * 6, tf.TensorSpec([None, None], tf.int32))


def pack(tokens: np.ndarray) -> Packed:
    """Pack captions.

    Args:
        tokens: (pictures, captions, length) integer: <start>, words, <end>, <pad>; rows of <pad>
            are no captions. At least one caption is there.
    """
    pictures, captions, length = tokens.shape
    flat = tokens.reshape(pictures * captions, length)
    lengths = np.maximum((flat != PAD).sum(1) - 1, 0)  # <end> is not read
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    there = np.arange(lengths.max())[:, None] < lengths[order]  # (steps, captions)
    steps = len(there)
    picture = np.broadcast_to(order // captions, there.shape)[there]
    in_picture = np.bincount(picture, minlength=pictures)
    slots = np.full((pictures, in_picture.max()), len(picture))
    by_number = np.argsort(picture, kind="stable")
    slot = np.arange(len(picture)) - np.repeat(np.cumsum(in_picture) - in_picture, in_picture)
    slots[picture[by_number], slot] = by_number
    places = np.empty(len(picture), np.int64)
    places[by_number] = picture[by_number] * slots.shape[1] + slot
    packed = Packed(
        inputs=flat[order, :steps].T[there],
        targets=flat[order, 1 : steps + 1].T[there],
        counts=there.sum(1),
        pictures=order // captions,
        captions=order,
        places=places,
        slots=slots,
    )
    return Packed(*(array.astype(np.int32) for array in packed))


@tf.custom_gradient
def _exchange(values: tf.Tensor, take: tf.Tensor, take_back: tf.Tensor) -> tf.Tensor:
    """Rows `take` of values, zeros where that is their number; the gradient is the way back.

    TensorFlow's own gradient would add up rows one by one, since it cannot know that none is taken
    twice.
    """

    def rows(x, chosen):
        return tf.gather(tf.pad(x, [[0, 1], [0, 0]]), chosen)

    return rows(values, take), lambda upstream: (rows(upstream, take_back), None, None)


def by_picture(values: tf.Tensor, packed: Packed) -> tf.Tensor:
    """(tokens, n) packed to (pictures, most tokens of a picture, n), zeros where there is none."""
    laid = _exchange(values, tf.reshape(packed.slots, [-1]), packed.places)
    return tf.reshape(laid, tf.concat([tf.shape(packed.slots), tf.shape(values)[1:]], 0))


def by_token(values: tf.Tensor, packed: Packed) -> tf.Tensor:
    """(pictures, most tokens of a picture, n) back to (tokens, n); what `by_picture` undoes."""
    flat = tf.reshape(values, (-1, values.shape[-1]))
    return _exchange(flat, packed.places, tf.reshape(packed.slots, [-1]))


def of_picture(values: tf.Tensor, packed: Packed) -> tf.Tensor:
    """(pictures, n) to (tokens, n), each token its picture's."""
    return tf.gather(values, packed.places // tf.shape(packed.slots)[1])
