"""Captions for pictures' features, batch by batch: the likeliest one, or several different ones.

One function is compiled for each kind of search and for all pictures of a batch together. Several
models speak with one voice: what is searched is the mean of their probabilities, an ensemble as in
"Show and Tell: Lessons learned" (Vinyals et al. 2016, section 5.3.3). What a picture says for
single words may have a say too, see `beam_search`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.beam_search import beam_search
from captioner.generation import IMPOSSIBLE
from captioner.model import CaptionModel
from captioner.sampling import sample_with
from captioner.text import PAD

# Of the bigrams in five captions of a picture of Flickr8k 55% are different ones with it; in the
# five of a plain beam 35%.
DIVERSITY = 1.0
ROUNDS = 10  # of sampling until there are as many different captions as wanted


class Found(NamedTuple):
    """A caption's words, without <end>, and the natural logarithm of its probability with <end>."""

    words: tuple[int, ...]
    log_probability: float


class Ensemble:
    """Models that speak together: `look` and `next_word` as of one model, with nested states.

    Args:
        models: with the same vocabulary, for the same features.
    """

    def __init__(self, models: Sequence[CaptionModel]):
        self.models = models

    def look(self, features: tf.Tensor) -> tuple[tuple, tuple]:
        memories, states = zip(*(model.look(features) for model in self.models), strict=True)
        return memories, states

    def next_word(self, memory: tuple, state: tuple, words: tf.Tensor) -> tuple[tf.Tensor, tuple]:
        """The logarithm of the mean of their probabilities, and the new states."""
        said, states = zip(
            *(
                model.next_word(*own, words)
                for model, *own in zip(self.models, memory, state, strict=True)
            ),
            strict=True,
        )
        return tf.reduce_logsumexp(tf.stack(said), 0) - np.log(len(said)), states


class Decoder:
    """Finds captions with a model, or with several of the same vocabulary and features.

    Args:
        models: the captioning model or models.
        beam_width, max_length, length_penalty, no_repeat: see `beam_search`.
        batch_size: pictures a call of the compiled function.
        word_evidence: weight of what `seen` says; 0 for the models alone.
        seen: the same features to the evidence (pictures, vocabulary) of `beam_search`, like
            `JointModel.evidence`.

    Attributes:
        search: that function: features (pictures, cells, channels) float16 to words (pictures,
            max_length) int32, padded, and log-probabilities (pictures,).
    """

    def __init__(
        self,
        models: CaptionModel | Sequence[CaptionModel],
        beam_width: int,
        max_length: int,
        length_penalty: float,
        batch_size: int,
        no_repeat: int = 0,
        word_evidence: float = 0.0,
        seen: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        models = [models] if isinstance(models, CaptionModel) else list(models)
        speaker = models[0] if len(models) == 1 else Ensemble(models)
        config = models[0].config
        features = tf.TensorSpec((None, config.cells, config.channels), tf.float16)
        settings = (max_length, length_penalty, no_repeat)
        self.batch_size, self.max_length = batch_size, max_length
        self.beam_width, self.length_penalty = beam_width, length_penalty

        def evidence_of(features):
            return word_evidence * seen(features) if word_evidence else None

        @tf.function(input_signature=[features])
        def search(features):
            looked = speaker.look(features)
            options = {"wanted": 1, "evidence": evidence_of(features)}
            words, total, _ = beam_search(
                speaker.next_word, *looked, beam_width, *settings, **options
            )
            return words[:, 0, 0], total[:, 0, 0]

        @tf.function(reduce_retracing=True)
        def search_groups(features, groups: int, width: int, length_penalty):
            looked = speaker.look(features)
            settings = (max_length, length_penalty, no_repeat)
            options = {"groups": groups, "diversity": DIVERSITY, "evidence": evidence_of(features)}
            words, totals, _ = beam_search(speaker.next_word, *looked, width, *settings, **options)
            return words, totals

        @tf.function(reduce_retracing=True)
        def draw(features, draws, top_p: float):
            draws = tf.repeat(draws[None], tf.shape(features)[0], 0)
            return sample_with(draws, speaker.next_word, *speaker.look(features), top_p)

        self.search, self._search_groups, self._draw = search, search_groups, draw
        self._has_evidence = word_evidence > 0
        self._evidence_of = tf.function(evidence_of, input_signature=[features])

    def __call__(self, features: np.ndarray, progress: bool = False):
        """The likeliest caption of each picture.

        Args:
            features: (pictures, cells, channels) float16; may be a memory map.
            progress: show a bar.

        Returns:
            words (pictures, max_length) int32, padded, and log-probabilities (pictures,).
        """
        found = [self.search(batch) for batch in self._batches(features, progress)]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def diverse(
        self,
        features: np.ndarray,
        number: int,
        beam_width: int | None = None,
        length_penalty: float | None = None,
    ) -> list[list[Found]]:
        """Different captions of each picture, by diverse beam search.

        Args:
            features: (pictures, cells, channels) float16.
            number: of captions, 1 or more.
            beam_width, length_penalty: others than the decoder's own; a new width is compiled.

        Returns:
            for each picture its captions, best first; fewer only if no more are possible. Up to the
            beam width, the one that the search alone would find is among them.
        """
        penalty = self.length_penalty if length_penalty is None else length_penalty
        # So wide that no group runs out of captions that the others have not found.
        width = max(beam_width or self.beam_width, number)
        settings = (number, width, tf.constant(penalty, tf.float32))
        chosen = []
        for batch in self._batches(features):
            found = [part.numpy() for part in self._search_groups(batch, *settings)]
            for words, totals in zip(*found, strict=True):
                chosen.append({})
                for group, captions in enumerate(words):
                    for caption, total in zip(map(_bare, captions), totals[group], strict=True):
                        if total > IMPOSSIBLE / 2 and caption not in chosen[-1]:
                            chosen[-1][caption] = float(total)
                            break
        return self._best_first(features, chosen, penalty)

    def sampled(
        self, features: np.ndarray, number: int, seed: int, top_p: float
    ) -> list[list[Found]]:
        """Different captions of each picture, by top-p sampling.

        A picture's captions depend on the seed, and not on the pictures beside it.

        Args:
            features: (pictures, cells, channels) float16.
            number: of captions, 1 or more.
            seed: of the random numbers.
            top_p: see `sampling.sample`.

        Returns:
            for each picture its captions, best first; fewer where the model is so sure that others
            hardly ever come.
        """
        chosen: list[dict] = [{} for _ in features]
        for attempt in range(ROUNDS):
            left = [row for row, captions in enumerate(chosen) if len(captions) < number]
            if not left:
                break
            shape = (number, self.max_length + 1)
            draws = tf.random.stateless_uniform(shape, (seed, attempt))
            drawn = [self._draw(batch, draws, top_p) for batch in self._batches(features[left])]
            words, totals = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
            for row, captions, total in zip(left, words, totals, strict=True):
                for caption, one in zip(map(_bare, captions), total, strict=True):
                    if len(chosen[row]) < number:
                        chosen[row][caption] = float(one)
        return self._best_first(features, chosen, self.length_penalty)

    def _batches(self, features: np.ndarray, progress: bool = False) -> Iterator[tf.Tensor]:
        starts = range(0, len(features), self.batch_size)
        for start in tqdm(starts, "captions", unit="batch", disable=None if progress else True):
            yield tf.constant(features[start : start + self.batch_size])

    def _best_first(
        self, features: np.ndarray, captions: list[dict[tuple[int, ...], float]], penalty: float
    ) -> list[list[Found]]:
        """Of each picture in the order of the beam search's score, equals by their words."""
        evidence = itertools.repeat(None)
        if self._has_evidence:
            evidence = np.concatenate([self._evidence_of(one) for one in self._batches(features)])

        def worth(one: Found, evidence: np.ndarray | None) -> float:
            gained = 0.0 if evidence is None else float(evidence[list(set(one.words))].sum())
            return (one.log_probability + gained) / (len(one.words) + 1) ** penalty

        return [
            sorted(
                (Found(*caption) for caption in found.items()),
                key=lambda one: (-worth(one, row), one.words),
            )
            for found, row in zip(captions, evidence, strict=False)
        ]


def _bare(words: np.ndarray) -> tuple[int, ...]:
    return tuple(words[words != PAD].tolist())
