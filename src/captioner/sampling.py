"""Captions drawn at random, word by word, from what the model believes.

A word is the place where a uniform number falls in the cumulative distribution (inversion, Devroye
1986, section III.2), so that who gives the numbers decides everything, and the same numbers give
the same captions whatever else is in the batch. Top-p or nucleus sampling draws from the fewest
words that hold the share p of the probability, since the long tail is where nonsense comes from
("The Curious Case of Neural Text Degeneration", Holtzman et al. 2020, section 3.1).
"""

from typing import Any, NamedTuple

import tensorflow as tf

from captioner.generation import Step, last_words, no_words, until_ended
from captioner.text import END, PAD


class Samples(NamedTuple):
    """What is drawn so far, of each picture.

    Attributes:
        words: (pictures, samples, max_length) int32, padded.
        log_probabilities: (pictures, samples).
        alive: (pictures, samples) bool.
        draws: (pictures, samples, max_length + 1), the uniform numbers.
        state: nested (pictures, samples, ...), the model's.
    """

    words: tf.Tensor
    log_probabilities: tf.Tensor
    alive: tf.Tensor
    draws: tf.Tensor
    state: Any


def sample(
    step: Step,
    memory: Any,
    state: Any,
    samples: int,
    max_length: int,
    seed: tf.Tensor,
    top_p: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw captions; for use inside a `tf.function`. Two of a picture may be equal.

    Args:
        step, memory, state: see `beam_search`.
        samples: captions drawn for each picture.
        max_length: words of the longest caption.
        seed: (2,) integers; equal seeds, equal captions.
        top_p: share of the probability, in (0, 1], that the words to draw from hold together; 1
            leaves none out.

    Returns:
        words (pictures, samples, max_length) int32, padded, without <end>; and the natural
        logarithms of their probabilities, <end> included, as the model gives them (top_p
        chooses, but does not count), (pictures, samples).
    """
    pictures = tf.shape(tf.nest.flatten(state)[0])[0]
    draws = tf.random.stateless_uniform((pictures, samples, max_length + 1), seed)
    return sample_with(draws, step, memory, state, top_p)


def sample_with(
    draws: tf.Tensor,
    step: Step,
    memory: Any,
    state: Any,
    top_p: float | tf.Tensor = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `sample` does, with given numbers.

    Args:
        draws: (pictures, samples, max_length + 1) float32, in [0, 1), one for each word and <end>.
        top_p: see `sample`; a tensor is taken to be less than 1.
    """
    pictures, samples, _ = tf.unstack(tf.shape(draws))
    max_length = draws.shape[-1] - 1

    def grow(t: tf.Tensor, memory: Any, drawn: Samples) -> Samples:
        log_probabilities, state = step(memory, drawn.state, last_words(t, drawn.words))
        allowed = no_words(log_probabilities.shape[-1], t, max_length)
        weights = tf.nn.softmax(log_probabilities + allowed)
        word = choose(weights, drawn.draws[:, :, t], top_p)
        found = tf.gather(log_probabilities, word, batch_dims=2)
        total = drawn.log_probabilities + tf.where(drawn.alive, found, 0.0)
        alive = drawn.alive & (word != END) & (t < max_length)  # also where the model says NaN
        word = tf.where(alive, word, PAD)
        words = tf.where(tf.range(max_length) == t, word[:, :, None], drawn.words)
        return Samples(words, total, alive, drawn.draws, state)

    start = Samples(
        words=tf.fill((pictures, samples, max_length), PAD),
        log_probabilities=tf.zeros((pictures, samples)),
        alive=tf.fill((pictures, samples), True),
        draws=draws,
        state=tf.nest.map_structure(lambda x: tf.repeat(x, samples, 1), state),
    )
    return until_ended(
        grow, lambda drawn: tf.reduce_any(drawn.alive, 1), lambda drawn: drawn[:2], memory, start
    )


def choose(weights: tf.Tensor, draws: tf.Tensor, top_p: float | tf.Tensor) -> tf.Tensor:
    """Invert the cumulative distribution.

    Args:
        weights: (..., words), none negative, some positive.
        draws: (...) in [0, 1).
        top_p: see `sample`.

    Returns:
        (...) int32, words of positive weight.
    """
    shape = tf.shape(draws)
    weights = tf.reshape(weights, (-1, weights.shape[-1]))
    some = tf.is_tensor(top_p) or top_p < 1
    if some:
        weights, words = tf.math.top_k(weights, weights.shape[-1])
        before = tf.cumsum(weights, axis=1, exclusive=True)
        weights = tf.where(before < top_p * tf.reduce_sum(weights, 1, keepdims=True), weights, 0.0)
    reached = tf.cumsum(weights, axis=1)
    at = reached[:, -1:] * tf.reshape(draws, (-1, 1))
    found = tf.searchsorted(reached, at, side="right")
    found = tf.minimum(found, weights.shape[-1] - 1)  # beyond it only among weights of NaN
    if some:
        found = tf.gather(words, found, batch_dims=1)
    return tf.reshape(found, shape)
