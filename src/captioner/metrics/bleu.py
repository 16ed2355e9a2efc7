"""Corpus BLEU-1 to BLEU-4 with the closest reference length, as the COCO reference computes it.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", sections
2.2 and 2.3, with the constants of `pycocoevalcap/bleu/bleu_scorer.py`: counts are summed over the
corpus before any division, and two small numbers keep the quotients defined where nothing matches.
Since the counts are all that BLEU needs, those of each picture give its own BLEU, and their sums
that of any sample of pictures.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from captioner.metrics.ngrams import ORDERS, Matches, ReferenceNGrams

# The reference's constants: they show from the ninth digit on, and make BLEU-4 about 1e-5, not 0,
# where no four-gram matches.
_TINY = 1e-15
_SMALL = 1e-9


def bleu_counts(references: ReferenceNGrams, matches: Matches) -> np.ndarray:
    """What BLEU adds up over a corpus.

    Returns:
        (captions, 10) float64: correct n-grams of order 1 to 4 (each at most as often as the
        reference that has it most), n-grams of order 1 to 4, length, length of the reference that
        is closest in length (of two equally close ones the shorter).
    """
    captions = len(matches.lengths)
    most = np.append(references.group_most, 0)[matches.group]  # the last stands for no group
    correct = np.bincount(
        matches.hypothesis * ORDERS + matches.order,
        np.minimum(matches.count, most),
        captions * ORDERS,
    ).reshape(captions, ORDERS)
    guessed = np.maximum(matches.lengths[:, None] - np.arange(ORDERS), 0)
    length = matches.lengths[matches.pair_hypothesis]
    reference_length = references.lengths[matches.pair_reference]
    # By difference first, then by length: one number that keeps this order.
    scale = int(references.lengths.max(initial=0)) + 1
    rank = np.abs(reference_length - length) * scale + reference_length
    closest = np.minimum.reduceat(rank, matches.first_pair) % scale
    return np.column_stack([correct, guessed, matches.lengths, closest]).astype(np.float64)


def bleu_of_counts(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of counts (..., 10), summed over a corpus or of one caption: (..., 4)."""
    correct, guessed = counts[..., :ORDERS], counts[..., ORDERS : 2 * ORDERS]
    ratio = (counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL)
    brevity_penalty = np.exp(np.minimum(0.0, 1 - 1 / np.maximum(ratio, _TINY)))
    product = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    return product ** (1 / np.arange(1, ORDERS + 1)) * brevity_penalty[..., None]


def bleu(
    references: Sequence[Sequence[Sequence[Hashable]]], hypotheses: Sequence[Sequence[Hashable]]
) -> list[float]:
    """Score a corpus.

    Args:
        references: for each picture its reference captions, each a list of tokens.
        hypotheses: for each picture its generated caption, a list of tokens.

    Returns:
        BLEU-1, BLEU-2, BLEU-3 and BLEU-4 of the corpus, fractions of 1.
    """
    known = ReferenceNGrams(references)
    return bleu_of_counts(bleu_counts(known, known.match(hypotheses)).sum(axis=0)).tolist()
