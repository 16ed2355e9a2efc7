"""Beam search, apart from the model behind it.

The search owns the hypotheses and asks the model for the next words of all of them at once. One
that ends gives its place up, so that the beam shrinks until nothing is alive; a beam of one is
greedy decoding. Captions are ranked by log-probability / length ** length_penalty, since a sum of
logarithms alone favours the short (Wu et al. 2016, section 7, without the constant), and say no
n-gram twice (Paulus et al. 2018, section 2.5). Several groups of hypotheses find different
captions: "Diverse Beam Search" (Vijayakumar et al. 2016, section 4), with Hamming diversity.

What else speaks for a word, whatever stands around it, is added to its log-probability the first
time a caption says it: the evidence. So a search may find what two models agree in, one that knows
sentences and one that knows words (a log-linear model, as in "From Captions to Visual Concepts and
Back", Fang et al. 2015, section 4).
"""

from typing import Any, NamedTuple

import tensorflow as tf

from captioner.generation import IMPOSSIBLE, Step, last_words, no_words, until_ended
from captioner.text import END, PAD


class Beam(NamedTuple):
    """What is known of each picture; hypotheses stand group by group.

    Attributes:
        words: (pictures, hypotheses, max_length) int32, padded.
        alive: (pictures, hypotheses) log-probabilities and evidence of those that go on, else
            `IMPOSSIBLE`; gained: the evidence in it.
        most: (pictures, 1) evidence that a caption can have at most.
        state: nested (pictures, hypotheses, ...), the model's.
        done_words: (pictures, groups, beam, max_length), finished captions, best first.
        done, done_scores: (pictures, groups, beam) their log-probabilities and ranking scores.
    """

    words: tf.Tensor
    alive: tf.Tensor
    gained: tf.Tensor
    most: tf.Tensor
    state: Any
    done_words: tf.Tensor
    done: tf.Tensor
    done_scores: tf.Tensor


def beam_search(
    step: Step,
    memory: Any,
    state: Any,
    beam_width: int | tf.Tensor,
    max_length: int,
    length_penalty: float | tf.Tensor,
    no_repeat: int = 0,
    wanted: int | None = None,
    groups: int = 1,
    diversity: float = 0.0,
    evidence: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Find likely captions; for use inside a `tf.function`.

    Args:
        step: (memory, state, words (pictures, hypotheses) int32) -> (log-probabilities (pictures,
            hypotheses, vocabulary), new state).
        memory: nested tensors (pictures, ...) that do not change.
        state: nested tensors (pictures, 1, ...), before the first word.
        beam_width: hypotheses kept for each group of a picture; like `length_penalty` it may be a
            scalar tensor, so that one graph serves all values.
        max_length: words of the longest caption; a caption of that length ends whatever comes.
        length_penalty: exponent of the length (words and <end>) in the ranking; 0 for none.
        no_repeat: words of the shortest phrase that a caption may not say twice; 0 allows all.
        wanted: captions of a group that are sure to be what a search to the end would find, which
            lets it end sooner; all by default.
        groups: the first one searches freely; each of the others avoids the words that those
            before it choose at the same position.
        diversity: what a word's log-probability loses for each hypothesis that has chosen it.
        evidence: (pictures, vocabulary), none negative, what speaks for each word beside its
            log-probability; 0 for special words.

    Returns:
        words (pictures, groups, beam, max_length) int32, padded, best first; log-probabilities,
        <end> included, evidence left out and nothing lost, and ranking scores, which hold the
        evidence of the words, each counted once; both (pictures, groups, beam). Places
        without a caption (possible where the beam is wider than the number of captions) score
        `IMPOSSIBLE`.
    """

    def choose(alive: tf.Tensor, log_probabilities: tf.Tensor, said: tf.Tensor | None):
        """The best continuations of a group: their log-probabilities, parents and last words."""
        hypotheses, vocabulary = tf.shape(alive)[1], log_probabilities.shape[-1]
        if said is not None:
            log_probabilities -= diversity * said[:, None]
        # Of each hypothesis first: no sum is taken over the whole vocabulary.
        k = tf.minimum(beam_width, vocabulary)
        likely, word = tf.math.top_k(log_probabilities, k)
        flat = (-1, hypotheses * k)
        total = tf.reshape(alive[:, :, None] + likely, flat)
        total, place = tf.math.top_k(total, tf.minimum(beam_width, hypotheses * k))
        word = tf.gather(tf.reshape(word, flat), place, batch_dims=1)
        if said is not None:  # the penalty chooses, but does not count
            total += diversity * tf.gather(said, word, batch_dims=1)
        return total, place // k, word

    def score(total: tf.Tensor, length: tf.Tensor | int) -> tf.Tensor:
        return total / tf.cast(length, tf.float32) ** length_penalty

    def by_group(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (tf.shape(x)[0], groups, -1, *x.shape[2:]))

    def grow(t: tf.Tensor, memory: Any, beam: Beam) -> Beam:
        memory, *evidence = memory
        last = last_words(t, beam.words)
        log_probabilities, state = step(memory, beam.state, last)
        if no_repeat:
            log_probabilities = _without_repeats(log_probabilities, beam.words, t, no_repeat)
        if evidence:
            new_evidence = _of_new_words(evidence[0], beam.words)
            log_probabilities += new_evidence
        vocabulary = log_probabilities.shape[-1]
        log_probabilities += no_words(vocabulary, t, max_length)
        places = beam_width - tf.reduce_sum(tf.cast(beam.done > IMPOSSIBLE / 2, tf.int32), 2)
        said, chosen, size = None, [], tf.shape(last)[1] // groups
        for group in range(groups):
            here = slice(group * size, (group + 1) * size)
            total, parent, word = choose(beam.alive[:, here], log_probabilities[:, here], said)
            free = tf.range(tf.shape(total)[1]) < places[:, group, None]
            total = tf.where(free, total, IMPOSSIBLE)
            chosen.append((total, group * size + parent, word))
            if group + 1 < groups:
                there = tf.cast(total > IMPOSSIBLE / 2, tf.float32)[:, :, None]
                count = tf.reduce_sum(tf.one_hot(word, vocabulary) * there, 1)
                said = count if said is None else said + count
        total, parent, word = (tf.concat(parts, 1) for parts in zip(*chosen, strict=True))
        words = tf.gather(beam.words, parent, batch_dims=1)
        state = tf.nest.map_structure(lambda x: tf.gather(x, parent, batch_dims=1), state)
        gained = tf.gather(beam.gained, parent, batch_dims=1)
        if evidence:
            gained += tf.gather_nd(new_evidence, tf.stack([parent, word], -1), batch_dims=1)

        is_end = (word == END) & (total > IMPOSSIBLE / 2)
        ended = by_group(tf.where(is_end, total - gained, IMPOSSIBLE))
        scores = by_group(tf.where(is_end, score(total, t + 1), IMPOSSIBLE))
        done_scores, best = tf.math.top_k(tf.concat([beam.done_scores, scores], 2), beam_width)
        done = tf.gather(tf.concat([beam.done, ended], 2), best, batch_dims=2)
        done_words = tf.concat([beam.done_words, by_group(words)], 2)
        done_words = tf.gather(done_words, best, batch_dims=2)

        words = tf.where(tf.range(max_length) == t, word[:, :, None], words)
        alive = tf.where(word == END, IMPOSSIBLE, total)
        return Beam(words, alive, gained, beam.most, state, done_words, done, done_scores)

    def is_open(beam: Beam) -> tf.Tensor:
        """Whether something may still come among the wanted captions of a picture.

        No hypothesis can do better than go on to the greatest length with words that are certain,
        and all the evidence that there is.
        """
        alive = tf.reduce_max(by_group(beam.alive - beam.gained), 2)
        hope = alive + beam.most
        better = score(hope, max_length + 1) > beam.done_scores[:, :, (wanted or beam_width) - 1]
        return tf.reduce_any((alive > IMPOSSIBLE / 2) & (better | (hope > 0)), 1)

    pictures = tf.shape(tf.nest.flatten(state)[0])[0]
    nothing = tf.fill((pictures, groups, beam_width), IMPOSSIBLE)
    most = tf.zeros((pictures, 1))
    memory = (memory,)
    if evidence is not None:
        best = tf.math.top_k(evidence, min(max_length, evidence.shape[-1]), sorted=False).values
        most, memory = tf.reduce_sum(best, 1, keepdims=True), (*memory, evidence)
    # All hypotheses of a group start equal, so that one of them takes the first step for all.
    start = Beam(
        words=tf.fill((pictures, groups, max_length), PAD),
        alive=tf.zeros((pictures, groups)),
        gained=tf.zeros((pictures, groups)),
        most=most,
        state=tf.nest.map_structure(lambda x: tf.repeat(x, groups, 1), state),
        done_words=tf.fill((pictures, groups, beam_width, max_length), PAD),
        done=nothing,
        done_scores=nothing,
    )
    return until_ended(grow, is_open, lambda beam: beam[-3:], memory, start)


def _of_new_words(evidence: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """(pictures, hypotheses, vocabulary): the evidence, 0 for words that were said before."""
    evidence = tf.repeat(evidence[:, None], tf.shape(words)[1], 1)
    places = tf.where(words != PAD)
    places = tf.concat([places[:, :2], tf.cast(tf.gather_nd(words, places), tf.int64)[:, None]], 1)
    return tf.tensor_scatter_nd_update(evidence, places, tf.zeros(tf.shape(places)[:1]))


def _without_repeats(
    log_probabilities: tf.Tensor, words: tf.Tensor, t: tf.Tensor, size: int
) -> tf.Tensor:
    """`IMPOSSIBLE` for words at position t that end an n-gram of `size` that was said before."""
    windows = words.shape[-1] - size + 1
    if windows < 1:
        return log_probabilities
    again = tf.fill((*tf.unstack(tf.shape(words)[:2]), windows), True)
    again &= tf.range(windows) + size <= t
    for place in range(size - 1):
        last = words[:, :, tf.maximum(t - size + 1 + place, 0), None]
        again &= words[:, :, place : place + windows] == last
    found = tf.where(again)
    word = tf.cast(tf.gather_nd(words[:, :, size - 1 :], found), tf.int64)
    places = tf.concat([found[:, :2], word[:, None]], 1)
    impossible = tf.fill(tf.shape(word), IMPOSSIBLE)
    return tf.tensor_scatter_nd_update(log_probabilities, places, impossible)
