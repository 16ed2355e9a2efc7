"""What beam search and sampling share: captions of many pictures that grow word by word.

Both call `step(memory, state, words) -> (log-probabilities, state)`, which is
`CaptionModel.next_word`, for all captions of all pictures at once. Captions end at different
lengths; pictures that need no more words are dropped on the way, so that the last few captions of a
batch do not cost as much as all of them.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from captioner.text import END, PAD, START, UNK

NOT_A_WORD = (PAD, START, UNK)  # a caption never holds these
IMPOSSIBLE = -1e9  # stands for log 0; finite, so that 0 * IMPOSSIBLE is no NaN
CROWDED = 7 / 8  # share of open pictures under which the others are dropped, which costs a copy

Step = Callable[[Any, Any, tf.Tensor], tuple[tf.Tensor, Any]]


def until_ended(
    grow: Callable[[tf.Tensor, Any, Any], Any],
    is_open: Callable[[Any], tf.Tensor],
    found: Callable[[Any], tuple],
    memory: Any,
    search: Any,
) -> tuple:
    """Let captions grow word by word, and drop pictures that need no more words.

    Args:
        grow: (position, memory, search) -> search with a word more; in the end nothing is open.
        is_open: search -> (pictures,) bool.
        found: search -> what is asked for, tensors (pictures, ...).
        memory, search: nested tensors (pictures, ...).

    Returns:
        what was found of all pictures.
    """

    def crowded(t, search):
        return tf.reduce_mean(tf.cast(is_open(search), tf.float32)) > CROWDED

    def advance(t, pictures, memory, search, results):
        t, search = tf.while_loop(
            crowded,
            lambda t, search: (t + 1, grow(t, memory, search)),
            (t, search),
            (t.shape, tf.nest.map_structure(free, search)),
        )
        results = tuple(
            tf.tensor_scatter_nd_update(result, pictures[:, None], part)
            for result, part in zip(results, found(search), strict=True)
        )
        left = tf.where(is_open(search))[:, 0]
        pictures, memory, search = tf.nest.map_structure(
            lambda x: tf.gather(x, left), (pictures, memory, search)
        )
        return t, pictures, memory, search, results

    def free(x):
        """The numbers of pictures and of hypotheses change on the way."""
        return tf.TensorShape([None, None, *x.shape[2:]])

    results = found(search)
    pictures = tf.range(tf.shape(results[0])[0])
    start = (tf.constant(0), pictures, memory, search, results)
    invariants = (
        tf.TensorShape([]),
        tf.TensorShape([None]),
        tf.nest.map_structure(lambda x: tf.TensorShape([None, *x.shape[1:]]), memory),
        tf.nest.map_structure(free, search),
        tuple(x.shape for x in results),
    )
    *_, results = tf.while_loop(
        lambda t, pictures, *_: tf.size(pictures) > 0, advance, start, invariants
    )
    return results


def last_words(t: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """The words at position t - 1 of (pictures, hypotheses, max_length), at first <start>."""
    start = tf.fill(tf.shape(words)[:2], START)
    return tf.cond(t == 0, lambda: start, lambda: words[:, :, t - 1])


def no_words(vocabulary: int, t: tf.Tensor, max_length: int) -> tf.Tensor:
    """(vocabulary,) what is added to log-probabilities at position t: `IMPOSSIBLE` for what cannot
    stand there, else 0. No caption is empty, and one of full length ends.
    """
    ids = tf.range(vocabulary)
    is_end = ids == END
    allowed = tf.where(t == max_length, is_end, ~is_end | (t > 0))
    for word in NOT_A_WORD:
        allowed &= ids != word
    return tf.where(allowed, 0.0, IMPOSSIBLE)
