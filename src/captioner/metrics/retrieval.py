"""How well pictures find their sentences and sentences their pictures: R@k and median ranks.

The measures of Hodosh, Young and Hockenmaier 2013 ("Framing Image Description as a Ranking Task",
section 4) on one gallery: a picture has found its text if any of its own captions is among the
first k of all captions; a caption has found its picture if that is among the first k pictures.
"""

import numpy as np

from captioner import CaptionerError
from captioner.metrics.bootstrap import SAMPLES, interval_of_ratio

KS = (1, 5, 10)
BLOCK = 512  # pictures or captions compared at once
EQUAL = 1e-6  # cosines as near as this are the same but for rounding


def ranks(
    pictures: np.ndarray, captions: np.ndarray, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where what belongs together stands in each other's list, 1 at the top.

    What scores as the right one is before it in half of all orders: the rank is the mean over
    these. So vectors that are all equal are as good as chance, and no better.

    Args:
        pictures: (n, size); captions: (m, size); dot products say how well they fit.
        owners: (m,) the picture of each caption; each picture has one or more.

    Returns:
        (n,) rank of each picture's best own caption among the captions that are not its own, and
        (m,) rank of each caption's picture among all pictures.

    Raises:
        CaptionerError: a picture has no caption.
    """
    if (without := len(pictures) - len(np.unique(owners))) > 0:
        raise CaptionerError(f"{without} of {len(pictures)} pictures have no caption to be found")
    own = np.einsum("md,md->m", captions, pictures[owners])
    best = np.full(len(pictures), -np.inf, own.dtype)
    np.maximum.at(best, owners, own)
    of_pictures = np.empty(len(pictures))
    for start in range(0, len(pictures), BLOCK):
        here = slice(start, start + BLOCK)
        scores = pictures[here] @ captions.T
        scores[np.arange(start, start + len(scores))[:, None] == owners] = -np.inf
        of_pictures[here] = _before(scores, best[here])
    of_captions = np.empty(len(captions))
    for start in range(0, len(captions), BLOCK):
        here = slice(start, start + BLOCK)
        scores = captions[here] @ pictures.T
        scores[np.arange(len(scores)), owners[here]] = -np.inf
        of_captions[here] = _before(scores, own[here])
    return 1 + of_pictures, 1 + of_captions


def _before(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many of each row (n, others) stand before its `own` (n,), equals by half."""
    ahead = scores - own[:, None]
    return (ahead > EQUAL).sum(1) + (np.abs(ahead) <= EQUAL).sum(1) / 2


def retrieval_metrics(
    pictures: np.ndarray,
    captions: np.ndarray,
    owners: np.ndarray,
    seed: int,
    samples: int = SAMPLES,
) -> dict[str, float]:
    """`text_r1`, `text_r5`, `text_r10` and `text_median_rank` of the texts found for pictures, and
    the same of `picture`s found for texts.

    R@k are shares, each with the ends of its 95% interval, `_low` and `_high`: the bootstrap over
    pictures, each with all its captions, in the gallery as it is.

    Args:
        pictures, captions, owners: as for `ranks`.
        seed, samples: of the bootstrap.

    Raises:
        CaptionerError: a picture has no caption.
    """
    of_pictures, of_captions = ranks(pictures, captions, owners)
    each = np.bincount(owners, minlength=len(pictures)).astype(float)
    metrics = {}
    for name, found in (("text", of_pictures), ("picture", of_captions)):
        for k in KS:
            hits = (found <= k).astype(float)
            counts = np.ones(len(pictures))
            if name == "picture":
                hits, counts = np.bincount(owners, hits, len(pictures)), each
            low, high = interval_of_ratio(hits, counts, seed, samples)
            metrics[f"{name}_r{k}"] = float(hits.sum() / counts.sum())
            metrics |= {f"{name}_r{k}_low": low, f"{name}_r{k}_high": high}
        metrics[f"{name}_median_rank"] = float(np.median(found))
    return metrics
