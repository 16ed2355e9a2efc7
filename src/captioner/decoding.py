"""Beam search, apart from the model behind it.

The search owns the hypotheses and calls `step(words, state) -> (log-probabilities, state)` for the
next words of all hypotheses of all pictures at once. A hypothesis that ends gives its place up, so
that the beam shrinks until nothing is alive; a beam of one is greedy decoding. Captions are ranked
by log-probability / length ** length_penalty, since a sum of logarithms alone favours the short (Wu
et al. 2016, section 7, without the constant).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.model import CaptionModel
from captioner.text import END, PAD, START, UNK

NOT_A_WORD = (PAD, START, UNK)  # a caption never holds these
IMPOSSIBLE = -1e9  # stands for log 0; finite, so that 0 * IMPOSSIBLE is no NaN


def beam_search(
    step: Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]],
    state: Any,
    pictures: int,
    beam_width: int,
    max_length: int,
    length_penalty: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Find likely captions; for use inside a `tf.function`.

    Args:
        step: (words (pictures, beam) int32, state) -> (log-probabilities (pictures, beam,
            vocabulary), new state).
        state: nested tensors of shape (pictures, beam, ...), all beams of a picture equal.
        pictures: number of pictures.
        beam_width: hypotheses kept for each picture.
        max_length: words of the longest caption; a caption of that length ends whatever comes.
        length_penalty: exponent of the length (words and <end>) in the ranking; 0 for none.

    Returns:
        words (pictures, beam, max_length) int32, padded, best first; log-probabilities, <end>
        included, and ranking scores, both (pictures, beam). Places without a caption (possible
        where the beam is wider than the number of captions) score `IMPOSSIBLE`.
    """

    def grow(t, alive, words, state, done, done_words, done_score):
        last = tf.cond(
            t == 0, lambda: tf.fill((pictures, beam_width), START), lambda: words[:, :, t - 1]
        )
        log_probabilities, state = step(last, state)
        vocabulary = log_probabilities.shape[-1]
        ids = tf.range(vocabulary)
        is_end = ids == END
        # No caption is empty, and one of full length ends.
        allowed = tf.where(t == max_length, is_end, ~is_end | (t > 0))
        for word in NOT_A_WORD:
            allowed &= ids != word
        total = alive[:, :, None] + tf.where(allowed, log_probabilities, IMPOSSIBLE)
        total, chosen = tf.math.top_k(tf.reshape(total, (pictures, -1)), k=beam_width)
        places = beam_width - tf.reduce_sum(tf.cast(done > IMPOSSIBLE / 2, tf.int32), 1)
        total = tf.where(tf.range(beam_width) < places[:, None], total, IMPOSSIBLE)
        parent, word = chosen // vocabulary, chosen % vocabulary
        words = tf.gather(words, parent, batch_dims=1)
        state = tf.nest.map_structure(lambda x: tf.gather(x, parent, batch_dims=1), state)

        ended = (word == END) & (total > IMPOSSIBLE / 2)
        length = tf.cast(t + 1, tf.float32)
        score = tf.where(ended, total / length**length_penalty, IMPOSSIBLE)
        done_score, best = tf.math.top_k(tf.concat([done_score, score], 1), k=beam_width)
        candidates = tf.concat([done, tf.where(ended, total, IMPOSSIBLE)], 1)
        done = tf.gather(candidates, best, batch_dims=1)
        done_words = tf.gather(tf.concat([done_words, words], 1), best, batch_dims=1)

        alive = tf.where(word == END, IMPOSSIBLE, total)
        here = tf.range(max_length) == t
        words = tf.where(here, word[:, :, None], words)
        return t + 1, alive, words, state, done, done_words, done_score

    def anything_alive(t, alive, *_):
        return (t <= max_length) & tf.reduce_any(alive > IMPOSSIBLE / 2)

    impossible = tf.fill((pictures, beam_width), IMPOSSIBLE)
    # All beams start equal: only the first may grow at the first step.
    alive = tf.where(tf.range(beam_width) == 0, 0.0, impossible)
    empty = tf.fill((pictures, beam_width, max_length), PAD)
    start = (tf.constant(0), alive, empty, state, impossible, empty, impossible)
    *_, done, done_words, done_score = tf.while_loop(anything_alive, grow, start)
    return done_words, done, done_score


class Decoder:
    """Captions for pictures' features, batch by batch, with one compiled function.

    Args:
        model: the captioning model.
        beam_width, max_length, length_penalty: see `beam_search`.
        batch_size: pictures a call of the compiled function; the last batch is padded to it.
    """

    def __init__(
        self,
        model: CaptionModel,
        beam_width: int,
        max_length: int,
        length_penalty: float,
        batch_size: int,
    ):
        self.batch_size = batch_size
        shape = (batch_size, model.config.cells, model.config.channels)

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float16)])
        def search(features):
            memory, state = model.look(features)
            state = tf.nest.map_structure(lambda x: tf.repeat(x, beam_width, axis=1), state)

            def step(words, state):
                return model.next_word(memory, state, words)

            words, log_probabilities, _ = beam_search(
                step, state, batch_size, beam_width, max_length, length_penalty
            )
            return words[:, 0], log_probabilities[:, 0]

        self._search = search

    def __call__(self, features: np.ndarray, progress: bool = False):
        """Args:
            features: (pictures, cells, channels) float16; may be a memory map.
            progress: show a bar.

        Returns:
            words (pictures, max_length) int32, padded, and log-probabilities (pictures,).
        """
        words, log_probabilities = [], []
        starts = range(0, len(features), self.batch_size)
        for start in tqdm(starts, "captions", unit="batch", disable=None if progress else True):
            batch = np.asarray(features[start : start + self.batch_size])
            missing = self.batch_size - len(batch)
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0)))
            found, scores = self._search(padded)
            words.append(found.numpy()[: len(batch)])
            log_probabilities.append(scores.numpy()[: len(batch)])
        return np.concatenate(words), np.concatenate(log_probabilities)
