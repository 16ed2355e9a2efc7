"""Pictures with their captions as training reads them: picture by picture, in batches of like
length.

A batch holds pictures whose longest captions are about equally long, padded to a multiple of four
words: little padding, and few different shapes to compile for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.text import PAD

LENGTH_STEP = 4  # captions are padded to a multiple of this many words


@dataclass(frozen=True)
class Examples:
    """Pictures with their captions.

    Attributes:
        features: (all pictures, cells, channels) float16, usually a memory map of all splits.
        rows: (pictures,) the rows of `features` that belong to these examples.
        tokens: (pictures, captions, length) integer: <start>, words, <end>, <pad>; a picture with
            fewer captions than others has rows of <pad>.
    """

    features: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray


def read_features(folder: Path | str, attention: str) -> np.ndarray:
    """Map the features that a kind of attention looks at; nothing is read yet.

    Returns:
        (pictures, cells, channels) float16; one cell for `pooled`.
    """
    features = np.load(Path(folder) / f"{attention}.npy", mmap_mode="r")
    return features if features.ndim == 3 else features[:, None]


def read_examples(
    features: np.ndarray, index: Path | str, tokens: Path | str, split: str
) -> Examples:
    """The examples of a split.

    Args:
        features: from `read_features`.
        index: Parquet with the `split` of each row of `features`.
        tokens: folder of captions.npy (captions, length) and pictures.npy (captions,).
        split: train, val or test.
    """
    splits = pd.read_parquet(index, columns=["split"])["split"].to_numpy()
    rows = np.flatnonzero(splits == split)
    captions = np.load(Path(tokens) / "captions.npy")
    pictures = np.load(Path(tokens) / "pictures.npy")
    return Examples(features, rows, captions_by_picture(captions, pictures, rows))


def read_references(captions: Path | str, split: str) -> pd.Series:
    """The captions of each picture of a split: lists of str by picture number, ascending."""
    table = pd.read_parquet(captions, filters=[("split", "==", split)])
    return table.groupby("picture", sort=True)["caption"].agg(list)


def captions_by_picture(tokens: np.ndarray, pictures: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Group captions by picture.

    Args:
        tokens: (captions, length); pictures: (captions,) the picture number of each, ascending.
        rows: (n,) picture numbers, ascending.

    Returns:
        (n, most captions of a picture, length), rows of <pad> where a picture has fewer.
    """
    first = np.searchsorted(pictures, rows, "left")
    counts = np.searchsorted(pictures, rows, "right") - first
    grouped = np.full((len(rows), int(counts.max(initial=0)), tokens.shape[1]), PAD, tokens.dtype)
    for place in range(grouped.shape[1]):
        has = counts > place
        grouped[has, place] = tokens[first[has] + place]
    return grouped


def batches(
    tokens: np.ndarray, size: int, rng: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of pictures of similar length.

    Args:
        tokens: (pictures, captions, length).
        size: pictures a batch; only the longest batch may hold fewer.
        rng: shuffles; None for a fixed order.

    Yields:
        indices (at most size,) into `tokens`, ascending, and the padded length (<start> and <end>
        included).
    """
    lengths = (tokens != PAD).sum(-1).max(-1)
    noise = 0.0 if rng is None else rng.random(len(lengths)) * LENGTH_STEP
    order = np.argsort(lengths + noise, kind="stable")
    starts = np.arange(0, len(order), size)
    if rng is not None:
        rng.shuffle(starts)
    for start in starts:
        chosen = np.sort(order[start : start + size])
        padded = -(-int(lengths[chosen].max()) // LENGTH_STEP) * LENGTH_STEP
        yield chosen, min(padded, tokens.shape[-1])
