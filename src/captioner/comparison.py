"""Is B better than A? Two sets of captions of the same pictures, compared picture by picture.

A difference of scores means nothing without what chance alone would do (Dror et al. 2018, "The
Hitchhiker's Guide to Testing Statistical Significance in Natural Language Processing"): so each has
a paired bootstrap interval and a p-value. And since numbers do not say what changed, the captions
that changed their picture's CIDEr-D most are there to be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioner import CaptionerError
from captioner.metrics.bootstrap import Difference, paired_differences
from captioner.score_checks import score_warnings, scorer_and_warnings
from captioner.words import split_lines

CHANGES = 20


@dataclass(frozen=True)
class Change:
    """A picture whose captions differ, with the CIDEr-D of both."""

    image_id: str
    captions: tuple[str, str]
    cider_d: tuple[float, float]
    references: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        pictures: how many were compared; same_captions: of how many both say the same.
        scores: measure -> the scores of A and B.
        differences: measure -> B's less A's.
        changes: the greatest changes of CIDEr-D either way, greatest first.
        warnings: what makes the scores meaningless or doubtful, one line each.
    """

    pictures: int
    same_captions: int
    scores: dict[str, tuple[float, float]]
    differences: dict[str, Difference]
    changes: list[Change]
    warnings: list[str]


def compare(
    references: Mapping[str, Sequence[str]],
    first: Mapping[str, str],
    second: Mapping[str, str],
    seed: int = 0,
    changes: int = CHANGES,
    split_characters: bool = False,
) -> Comparison:
    """Compare two captions of each picture.

    Args:
        references: image id -> its reference captions; the pictures compared, in this order.
        first, second: image id -> generated caption, of all these pictures at least.
        seed: of the bootstrap.
        changes: how many to list at most.
        split_characters: whether Chinese and Japanese characters are words of their own.

    Raises:
        CaptionerError: no pictures, or a picture without references.
    """
    image_ids = list(references)
    known = [references[image_id] for image_id in image_ids]
    captions = [[side[image_id] for image_id in image_ids] for side in (first, second)]
    scored = captions
    if split_characters:
        known, scored = map(split_lines, known), list(map(split_lines, captions))
    scorer, warnings = scorer_and_warnings(list(known), split_characters)
    tokens = [scorer.tokens(side) for side in scored]
    one, other = map(scorer.score_tokens, tokens)
    for name, side, scores in zip("AB", tokens, (one, other), strict=True):
        found = score_warnings(image_ids, scorer.references, side, scores)
        warnings += [f"{name}: {warning}" for warning in found]
    by = other.cider_d - one.cider_d
    greatest = [row for row in np.argsort(-np.abs(by), kind="stable")[:changes] if by[row]]
    return Comparison(
        len(image_ids),
        sum(a == b for a, b in zip(*captions, strict=True)),
        {name: (one.corpus[name], other.corpus[name]) for name in one.corpus},
        paired_differences(one, other, seed),
        [
            Change(
                image_ids[row],
                (captions[0][row], captions[1][row]),
                (float(one.cider_d[row]), float(other.cider_d[row])),
                references[image_ids[row]],
            )
            for row in greatest
        ],
        warnings,
    )


def shared_references(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """The references of the pictures that both sides have, in the first's order.

    Raises:
        CaptionerError: a picture's references differ; or no picture is on both sides.
    """
    for image_id in first:
        if image_id in second and sorted(first[image_id]) != sorted(second[image_id]):
            raise CaptionerError(
                f"picture {image_id}: its references differ between A and B, and scores against "
                "different references cannot be compared; name the right ones with --references"
            )
    both = {image_id: first[image_id] for image_id in first if image_id in second}
    if not both:
        raise CaptionerError("A and B have no picture in common: they describe different splits")
    return both
