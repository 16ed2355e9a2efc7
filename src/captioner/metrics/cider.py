"""CIDEr-D: agreement with the references in n-grams weighted by how telling they are.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", sections 3 and 6:
TF-IDF vectors of the n-grams of one to four tokens, cosine similarity with clipped counts, a
Gaussian penalty (sigma 6) on the difference in length, times ten. Equal to
`pycocoevalcap/cider/cider_scorer.py`. The reference side is worked out once, since self-critical
training scores many captions against it.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from captioner import CaptionerError
from captioner.metrics.bleu import ngrams

_ORDERS = 4
_SIGMA = 6.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of `pictures` pictures some reference holds each n-gram."""

    counts: Counter[tuple[Hashable, ...]]
    pictures: int

    @classmethod
    def of(cls, references: Iterable[Sequence[Sequence[Hashable]]]) -> "DocumentFrequencies":
        """Count over the references, which are lists of tokens, grouped by picture."""
        return cls._of_counts([[ngrams(reference) for reference in group] for group in references])

    @classmethod
    def _of_counts(cls, reference_counts: list[list[Counter]]) -> "DocumentFrequencies":
        counts: Counter[tuple[Hashable, ...]] = Counter()
        for picture_counts in reference_counts:
            counts.update(set().union(*picture_counts))
        return cls(counts, len(reference_counts))


class CiderD:
    """The CIDEr-D score against a fixed set of references."""

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[Hashable]]],
        document_frequencies: DocumentFrequencies | None = None,
    ) -> None:
        """Work out the reference side.

        Args:
            references: for each picture its reference captions, each a list of tokens (words or
                word numbers).
            document_frequencies: where an n-gram's weight comes from; the references themselves
                unless given, as in the COCO reference.

        Raises:
            CaptionerError: a picture has no reference.
        """
        for number, picture_references in enumerate(references):
            if not picture_references:
                raise CaptionerError(f"picture {number} has no reference caption; leave it out")
        reference_counts = [[ngrams(reference) for reference in group] for group in references]
        frequencies = document_frequencies or DocumentFrequencies._of_counts(reference_counts)
        log_pictures = math.log(frequencies.pictures) if frequencies.pictures else 0.0
        self._default_weight = log_pictures
        self._weights = {
            ngram: log_pictures - math.log(count) for ngram, count in frequencies.counts.items()
        }
        self._pictures = [
            (*self._index(counts), [_length(reference) for reference in group])
            for counts, group in zip(reference_counts, references, strict=True)
        ]

    def _vector(
        self, counts: Counter[tuple[Hashable, ...]]
    ) -> tuple[dict[tuple[Hashable, ...], float], list[float]]:
        """Return the TF-IDF weight of each n-gram and the vector's norm for each order."""
        squares = [0.0] * _ORDERS
        vector = {}
        weights, default = self._weights, self._default_weight
        for ngram, count in counts.items():
            value = vector[ngram] = count * weights.get(ngram, default)
            squares[len(ngram) - 1] += value * value
        return vector, [math.sqrt(square) for square in squares]

    def _index(self, reference_counts: list[Counter]) -> tuple[dict, list[list[float]]]:
        """Turn a picture's references into postings: n-gram -> (reference number, weight), ..."""
        postings: dict[tuple[Hashable, ...], list[tuple[int, float]]] = {}
        norms = []
        for number, counts in enumerate(reference_counts):
            vector, norm = self._vector(counts)
            norms.append(norm)
            for ngram, value in vector.items():
                postings.setdefault(ngram, []).append((number, value))
        return postings, norms

    def _score(self, hypothesis: Sequence[Hashable], picture: int) -> float:
        postings, norms, lengths = self._pictures[picture]
        vector, norm = self._vector(ngrams(hypothesis))
        products = [[0.0] * _ORDERS for _ in norms]
        for ngram, value in vector.items():
            for number, reference_value in postings.get(ngram, ()):
                products[number][len(ngram) - 1] += min(value, reference_value) * reference_value
        total = 0.0
        length = _length(hypothesis)
        for product, reference_norm, reference_length in zip(products, norms, lengths, strict=True):
            cosines = sum(
                dot / (a * b)
                for dot, a, b in zip(product, norm, reference_norm, strict=True)
                if dot
            )
            if cosines:
                total += cosines * math.exp(-((length - reference_length) ** 2) / (2 * _SIGMA**2))
        return 10 * total / (_ORDERS * len(norms))

    def score(
        self, hypotheses: Sequence[Sequence[Hashable]], pictures: Sequence[int] | None = None
    ) -> np.ndarray:
        """Score captions.

        Args:
            hypotheses: generated captions, each a list of tokens.
            pictures: for each hypothesis the number of its picture in `references`; without it
                there is one hypothesis for each picture, in order.

        Returns:
            (hypotheses,) float64, from 0 to 10.

        Raises:
            CaptionerError: the numbers of hypotheses and pictures differ.
        """
        if pictures is None:
            pictures = range(len(self._pictures))
        if len(pictures) != len(hypotheses):
            raise CaptionerError(
                f"{len(hypotheses)} captions for {len(pictures)} pictures; give one for each"
            )
        pairs = zip(hypotheses, pictures, strict=True)
        return np.array([self._score(hypothesis, picture) for hypothesis, picture in pairs])


def _length(tokens: Sequence[Hashable]) -> int:
    """The reference takes the number of bigrams for the length: one less, but never below 0."""
    return max(len(tokens) - 1, 0)
