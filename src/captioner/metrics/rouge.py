"""ROUGE-L: the longest common subsequence with the references, as the COCO reference computes it.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3, with beta 1.2 and,
unlike the paper, the best precision and the best recall over a picture's references taken
separately (`pycocoevalcap/rouge/rouge.py`).
"""

from collections.abc import Hashable, Sequence

import numpy as np

_BETA_SQUARED = 1.2**2


def longest_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence.

    One bit for each token of `first`, one addition for each token of `second`: Hyyrö 2004,
    "Bit-parallel LCS-length computation revisited", section 2.
    """
    positions: dict[Hashable, int] = {}
    for index, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << index
    everything = (1 << len(first)) - 1
    unmatched = everything
    for token in second:
        match = unmatched & positions.get(token, 0)
        unmatched = (unmatched + match | unmatched - match) & everything
    return len(first) - unmatched.bit_count()


def _rouge_l(references: Sequence[Sequence[Hashable]], hypothesis: Sequence[Hashable]) -> float:
    # The reference splits on blanks, and "" split so is one empty token: it matches another one.
    hypothesis = hypothesis or [""]
    precision = recall = 0.0
    for reference in references:
        reference = reference or [""]
        common = longest_common_subsequence(reference, hypothesis)
        precision = max(precision, common / len(hypothesis))
        recall = max(recall, common / len(reference))
    if precision == 0:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def rouge_l(
    references: Sequence[Sequence[Sequence[Hashable]]], hypotheses: Sequence[Sequence[Hashable]]
) -> tuple[float, np.ndarray]:
    """Score each picture.

    Args:
        references: for each picture its reference captions, each a list of tokens.
        hypotheses: for each picture its generated caption, a list of tokens.

    Returns:
        The mean over the pictures, and the scores, (pictures,) float64; fractions of 1.
    """
    pairs = zip(references, hypotheses, strict=True)
    scores = np.array([_rouge_l(reference, hypothesis) for reference, hypothesis in pairs])
    return float(scores.mean()), scores
