"""Corpus BLEU-1 to BLEU-4 with the closest reference length, as the COCO reference computes it.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", sections
2.2 and 2.3, with the constants of `pycocoevalcap/bleu/bleu_scorer.py`: counts are summed over the
corpus before any division, and two small numbers keep the quotients defined where nothing matches.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

_ORDERS = 4
# The reference's constants: they show from the ninth digit on, and make BLEU-4 about 1e-5, not 0,
# where no four-gram matches.
_TINY = 1e-15
_SMALL = 1e-9


def ngrams(tokens: Sequence[Hashable]) -> Counter[tuple[Hashable, ...]]:
    """Count the n-grams of one to four tokens."""
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for order in range(1, _ORDERS + 1):
        counts.update(zip(*(tokens[start:] for start in range(order)), strict=False))
    return counts


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
    correct, guessed = [0] * _ORDERS, [0] * _ORDERS
    hypothesis_length = reference_length = 0
    for picture_references, hypothesis in zip(references, hypotheses, strict=True):
        reference_counts = [ngrams(reference) for reference in picture_references]
        for ngram, count in ngrams(hypothesis).items():
            most = max(counts.get(ngram, 0) for counts in reference_counts)
            correct[len(ngram) - 1] += min(count, most)
        length = len(hypothesis)
        for order in range(_ORDERS):
            guessed[order] += max(0, length - order)
        hypothesis_length += length
        # The closest length; of two equally close ones the shorter.
        reference_length += min((abs(len(r) - length), len(r)) for r in picture_references)[1]

    ratio = (hypothesis_length + _TINY) / (reference_length + _SMALL)
    brevity_penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order in range(_ORDERS):
        product *= (correct[order] + _TINY) / (guessed[order] + _SMALL)
        scores.append(product ** (1 / (order + 1)) * brevity_penalty)
    return scores
