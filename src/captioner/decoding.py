"""Captions for pictures' features, batch by batch: the likeliest one, or several different ones.

One function is compiled for each kind of search and for all pictures of a batch together. What a
person asks for enters it as tensors, so that no other value is compiled for anew: of all options
the number of groups alone has a graph for each value, up to `MOST_CAPTIONS`. Several
models speak with one voice: what is searched is the mean of their probabilities, an ensemble as in
"Show and Tell: Lessons learned" (Vinyals et al. 2016, section 5.3.3). What a picture says for
single words may have a say too, see `beam_search`; and so may what people say of similar pictures,
see `consensus`: then it chooses among all that several groups of a beam find.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner import CaptionerError
from captioner.beam_search import beam_search
from captioner.generation import IMPOSSIBLE
from captioner.graph import graph_function
from captioner.model import CaptionModel
from captioner.sampling import sample_with
from captioner.text import PAD

# Of the bigrams in five captions of a picture of Flickr8k 55% are different ones with it; in the
# five of a plain beam 35%.
DIVERSITY = 1.0
GROUPS = 4  # of a beam, where what it finds is chosen from
MOST_CAPTIONS = 20  # different ones of a picture that can be asked for
MOST_WIDTH = 100  # of a beam
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
        consensus: weight of what `agreement` says; 0 for the search alone.
        agreement: the same features and captions to (pictures, captions), like
            `consensus.Consensus`.

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
        consensus: float = 0.0,
        agreement: Callable[[tf.Tensor, np.ndarray], np.ndarray] | None = None,
    ):
        if (word_evidence and seen is None) or (consensus and agreement is None):
            raise ValueError("word_evidence needs `seen`, and consensus needs `agreement`")
        models = [models] if isinstance(models, CaptionModel) else list(models)
        speaker = models[0] if len(models) == 1 else Ensemble(models)
        config = models[0].config
        features = tf.TensorSpec((None, config.cells, config.channels), tf.float16)
        settings = (max_length, length_penalty, no_repeat)
        self.batch_size, self.max_length = batch_size, max_length
        self.beam_width, self.length_penalty = beam_width, length_penalty

        def evidence_of(features):
            return word_evidence * seen(features) if word_evidence else None

        @graph_function(input_signature=[features])
        def search(features):
            looked = speaker.look(features)
            options = {"wanted": 1, "evidence": evidence_of(features)}
            words, total, _ = beam_search(
                speaker.next_word, *looked, beam_width, *settings, **options
            )
            return words[:, 0, 0], total[:, 0, 0]

        scalar = tf.TensorSpec((), tf.float32)

        @cache
        def search_groups(groups: int):
            @graph_function(input_signature=[features, tf.TensorSpec((), tf.int32), scalar])
            def search(features, width, length_penalty):
                looked = speaker.look(features)
                settings = (width, max_length, length_penalty, no_repeat)
                evidence = evidence_of(features)
                options = {"groups": groups, "diversity": DIVERSITY, "evidence": evidence}
                words, totals, _ = beam_search(speaker.next_word, *looked, *settings, **options)
                return words, totals

            return search

        draws = tf.TensorSpec((None, max_length + 1), tf.float32)

        @graph_function(input_signature=[features, draws, scalar])
        def draw(features, draws, top_p):
            draws = tf.repeat(draws[None], tf.shape(features)[0], 0)
            return sample_with(draws, speaker.next_word, *speaker.look(features), top_p)

        @graph_function(input_signature=[features, draws])
        def draw_from_all(features, draws):
            draws = tf.repeat(draws[None], tf.shape(features)[0], 0)
            return sample_with(draws, speaker.next_word, *speaker.look(features))

        self.search, self._search_groups = search, search_groups
        self._draw, self._draw_from_all = draw, draw_from_all
        self._evidence_of = (
            graph_function(evidence_of, input_signature=[features]) if word_evidence else None
        )
        self._consensus, self._agreement = consensus, agreement

    def __call__(self, features: np.ndarray, progress: bool = False, alone: bool = False):
        """The likeliest caption of each picture.

        Args:
            features: (pictures, cells, channels) float16; may be a memory map.
            progress: show a bar.
            alone: leave consensus out.

        Returns:
            words (pictures, max_length) int32, padded, and log-probabilities (pictures,).
        """
        find = self._agreed if self._consensus and not alone else self.search
        found = [find(batch) for batch in self._batches(features, progress)]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _agreed(self, batch: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, but the one of the groups' captions that is worth most."""
        words, totals, values = self._groups(batch, GROUPS, self.beam_width, self.length_penalty)
        best = values.reshape(len(values), -1).argmax(1)[:, None]
        words = words.reshape(len(words), -1, self.max_length)
        words = np.take_along_axis(words, best[:, :, None], 1)[:, 0]
        return words, np.take_along_axis(totals.reshape(len(totals), -1), best, 1)[:, 0]

    def _groups(self, batch: tf.Tensor, groups: int, width: int, penalty: float):
        """Words (pictures, groups, width, max_length), log-probabilities and values."""
        settings = (tf.constant(width), tf.constant(penalty, tf.float32))
        words, totals = (part.numpy() for part in self._search_groups(groups)(batch, *settings))
        flat = (len(words), groups * width)
        values = self._values(
            batch, words.reshape(*flat, self.max_length), totals.reshape(flat), penalty
        )
        return words, totals, values.reshape(totals.shape)

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
            number: of captions, 1 to `MOST_CAPTIONS`; each number is compiled when first used.
            beam_width: another than the decoder's own, 1 to `MOST_WIDTH`.
            length_penalty: another than the decoder's own, 0 to 5.

        Returns:
            for each picture its captions, best first; fewer only if no more are possible. Up to the
            beam width, the one that the search alone would find is among them.

        Raises:
            CaptionerError: an option is out of these bounds.
        """
        _check("number", number, 1, MOST_CAPTIONS, whole=True)
        if beam_width is not None:
            _check("beam_width", beam_width, 1, MOST_WIDTH, whole=True)
        if length_penalty is not None:
            _check("length_penalty", length_penalty, 0, 5)
        penalty = self.length_penalty if length_penalty is None else length_penalty
        # So wide that no group runs out of captions that the others have not found.
        width = max(self.beam_width if beam_width is None else beam_width, number)
        groups = max(number, GROUPS) if self._consensus else number
        chosen = []
        for batch in self._batches(features):
            for words, totals, values in zip(
                *self._groups(batch, groups, width, penalty), strict=True
            ):
                chosen.append(self._one_of_each(words, totals, values)[:number])
        return chosen

    @staticmethod
    def _one_of_each(words: np.ndarray, totals: np.ndarray, values: np.ndarray) -> list[Found]:
        """The best caption of each group that no better group has, best first.

        Args:
            words: (groups, captions, max_length); totals, values: (groups, captions).
        """
        found: dict[tuple[int, ...], tuple] = {}
        for group in np.argsort(-values.max(1), kind="stable"):
            for place in np.argsort(-values[group], kind="stable"):
                caption = _bare(words[group, place])
                if totals[group, place] > IMPOSSIBLE / 2 and caption not in found:
                    found[caption] = (values[group, place], float(totals[group, place]))
                    break
        ranked = sorted(found.items(), key=lambda one: (-one[1][0], one[0]))
        return [Found(caption, total) for caption, (_, total) in ranked]

    def sampled(
        self, features: np.ndarray, number: int, seed: int, top_p: float
    ) -> list[list[Found]]:
        """Different captions of each picture, by top-p sampling.

        A picture's captions depend on the seed, and not on the pictures beside it.

        Args:
            features: (pictures, cells, channels) float16.
            number: of captions, 1 to `MOST_CAPTIONS`.
            seed: of the random numbers, less than 2**63 from zero.
            top_p: see `sampling.sample`.

        Returns:
            for each picture its captions, best first; fewer where the model is so sure that others
            hardly ever come.

        Raises:
            CaptionerError: an option is out of these bounds.
        """
        _check("number", number, 1, MOST_CAPTIONS, whole=True)
        _check("seed", seed, -(2**63) + 1, 2**63 - 1, whole=True)
        _check("top_p", top_p, 0, 1)
        draw = self._draw_from_all
        if top_p < 1:
            draw = partial(self._draw, top_p=tf.constant(top_p, tf.float32))
        chosen: list[dict] = [{} for _ in features]
        for attempt in range(ROUNDS):
            left = [row for row, captions in enumerate(chosen) if len(captions) < number]
            if not left:
                break
            shape = (number, self.max_length + 1)
            draws = tf.random.stateless_uniform(shape, tf.constant((seed, attempt), tf.int64))
            drawn = [draw(batch, draws) for batch in self._batches(features[left])]
            words, totals = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
            for row, captions, total in zip(left, words, totals, strict=True):
                for caption, one in zip(map(_bare, captions), total, strict=True):
                    if len(chosen[row]) < number:
                        chosen[row][caption] = float(one)
        return [
            self._best_first(features[row : row + 1], captions)
            for row, captions in enumerate(chosen)
        ]

    def _best_first(
        self, features: np.ndarray, captions: dict[tuple[int, ...], float]
    ) -> list[Found]:
        """A picture's captions in the order of what they are worth, equals by their words."""
        found = sorted(Found(*caption) for caption in captions.items())
        words = np.zeros((1, len(found), self.max_length), np.int32)
        for row, one in zip(words[0], found, strict=True):
            row[: len(one.words)] = one.words
        totals = np.array([[one.log_probability for one in found]])
        [values] = self._values(tf.constant(features), words, totals, self.length_penalty)
        return [found[place] for place in np.argsort(-values, kind="stable")]

    def _batches(self, features: np.ndarray, progress: bool = False) -> Iterator[tf.Tensor]:
        starts = range(0, len(features), self.batch_size)
        for start in tqdm(starts, "captions", unit="batch", disable=None if progress else True):
            yield tf.constant(features[start : start + self.batch_size])

    def _values(
        self, batch: tf.Tensor, words: np.ndarray, totals: np.ndarray, penalty: float
    ) -> np.ndarray:
        """What captions are worth.

        Args:
            batch: (pictures, cells, channels).
            words: (pictures, captions, max_length), padded; totals: (pictures, captions).

        Returns:
            (pictures, captions): the score of the search, and the weighted agreement.
        """
        if self._evidence_of is not None:
            evidence = self._evidence_of(batch).numpy()
            before = np.tri(words.shape[-1], k=-1, dtype=bool)
            again = ((words[..., :, None] == words[..., None, :]) & before).any(-1)
            gained = np.take_along_axis(evidence[:, None], words, 2)
            totals = totals + np.where(again | (words == PAD), 0, gained).sum(-1)
        values = totals / ((words != PAD).sum(-1) + 1) ** penalty
        if self._consensus:
            values = values + self._consensus * self._agreement(batch, words)
        return values


def _check(name: str, value: float, least: float, most: float, whole: bool = False) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "whole number" if whole else "number"
        raise CaptionerError(f"{name}: {value!r:.60}, expected a {kind} from {least} to {most}")


def _bare(words: np.ndarray) -> tuple[int, ...]:
    return tuple(words[words != PAD].tolist())
