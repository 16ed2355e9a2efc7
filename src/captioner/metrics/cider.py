"""CIDEr-D: agreement with the references in n-grams weighted by how telling they are.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", sections 3 and 6:
TF-IDF vectors of the n-grams of one to four tokens, cosine similarity with clipped counts, a
Gaussian penalty (sigma 6) on the difference in length, times ten. Equal to
`pycocoevalcap/cider/cider_scorer.py`. The reference side is worked out once, since self-critical
training scores many captions against it.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from captioner.metrics.ngrams import ORDERS, Matches, ReferenceNGrams, ranges

_SIGMA = 6.0


class CiderD:
    """The CIDEr-D score against a fixed set of references, which are the documents as well.

    Attributes:
        telling: whether any n-gram tells pictures apart; without one every score is 0.
    """

    def __init__(self, references: ReferenceNGrams) -> None:
        self._references = references
        self._new_weight = math.log(references.pictures) if references.pictures else 0.0
        self._weights = self._new_weight - np.log(references.document_frequency)
        self.telling = bool(self._weights.any())
        self._values = references.count * self._weights[references.ngram]
        self._norms = _norms(
            references.reference,
            references.order[references.ngram],
            self._values,
            len(references.lengths),
        )

    def score(
        self, hypotheses: Sequence[Sequence[Hashable]], pictures: Sequence[int] | None = None
    ) -> np.ndarray:
        """Score captions, each a list of tokens; see `ReferenceNGrams.match`.

        Returns:
            (hypotheses,) float64, from 0 to 10.

        Raises:
            CaptionerError: the numbers of hypotheses and pictures differ.
        """
        return self.score_matches(self._references.match(hypotheses, pictures))

    def score_matches(self, matches: Matches) -> np.ndarray:
        """Score captions that were looked up already, (hypotheses,) float64."""
        known, captions = self._references, len(matches.lengths)
        is_known = matches.ngram < known.distinct
        weights = np.full(len(matches.ngram), self._new_weight)
        weights[is_known] = self._weights[matches.ngram[is_known]]
        values = matches.count * weights
        norms = _norms(matches.hypothesis, matches.order, values, captions)

        # Every n-gram of a hypothesis meets its entries, one for each reference that holds it.
        shared = np.flatnonzero(matches.group >= 0)
        groups = matches.group[shared]
        holders = known.group_start[groups + 1] - known.group_start[groups]
        entry, mine = ranges(known.group_start[groups], holders), np.repeat(shared, holders)
        hypothesis = matches.hypothesis[mine]
        offset = known.reference[entry] - matches.pair_reference[matches.first_pair[hypothesis]]
        pair = matches.first_pair[hypothesis] + offset
        theirs = self._values[entry]
        products = np.bincount(
            pair * ORDERS + matches.order[mine],
            np.minimum(values[mine], theirs) * theirs,
            len(matches.pair_hypothesis) * ORDERS,
        ).reshape(-1, ORDERS)
        scale = norms[matches.pair_hypothesis] * self._norms[matches.pair_reference]
        zeros = np.zeros(products.shape)
        cosines = np.divide(products, scale, out=zeros, where=scale > 0).sum(1)
        # The reference takes the number of bigrams for the length: one less, but never below 0.
        own = np.maximum(matches.lengths - 1, 0)[matches.pair_hypothesis]
        apart = own - np.maximum(known.lengths - 1, 0)[matches.pair_reference]
        agreements = cosines * np.exp(-(apart**2) / (2 * _SIGMA**2))
        references = np.bincount(matches.pair_hypothesis, minlength=captions)
        total = np.bincount(matches.pair_hypothesis, agreements, captions)
        return 10 * total / (ORDERS * references)


def _norms(caption: np.ndarray, order: np.ndarray, values: np.ndarray, captions: int) -> np.ndarray:
    """Length of each caption's vector for each order, (captions, 4)."""
    squares = np.bincount(caption * ORDERS + order, values**2, captions * ORDERS)
    return np.sqrt(squares).reshape(captions, ORDERS)
