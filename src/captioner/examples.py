"""Pictures with their captions as training reads them: picture by picture, in random batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.text import PAD


@dataclass(frozen=True)
class Examples:
    """Pictures with their captions.

    Attributes:
        features: (all pictures, cells, channels) float16, usually a memory map of all splits.
        rows: (pictures,) the rows of `features` that belong to these examples.
        names: (pictures,) their ids.
        tokens: (pictures, captions, length) integer: <start>, words, <end>, <pad>; a picture with
            fewer captions than others has rows of <pad>.
        mirrored: (pictures, cells, channels) float16, features of the mirrored pictures, a memory
            map too; None where there are none.
    """

    features: np.ndarray
    rows: np.ndarray
    names: np.ndarray
    tokens: np.ndarray
    mirrored: np.ndarray | None = None

    def load(self, chosen: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Read the features of some pictures; only these leave the disk.

        Args:
            chosen: (n,) which examples, ascending.
            rng: takes about half of the pictures mirrored, where mirror images are there.

        Returns:
            (n, cells, channels) float16.
        """
        found = np.array(self.features[self.rows[chosen]])
        if self.mirrored is not None and rng is not None:
            turned = rng.random(len(chosen)) < 0.5
            found[turned] = self.mirrored[chosen[turned]]
        return found


def read_features(folder: Path | str, attention: str) -> np.ndarray:
    """Map the features that a kind of attention looks at; nothing is read yet.

    Returns:
        (pictures, cells, channels) float16; one cell for `pooled`.
    """
    features = np.load(Path(folder) / f"{attention}.npy", mmap_mode="r")
    return features if features.ndim == 3 else features[:, None]


def read_examples(
    features: np.ndarray,
    index: Path | str,
    tokens: Path | str,
    split: str,
    mirrored: np.ndarray | None = None,
) -> Examples:
    """The examples of a split.

    Args:
        features: from `read_features`.
        index: Parquet with the `image_id` and `split` of each row of `features`.
        tokens: folder of captions.npy (captions, length) and pictures.npy (captions,).
        split: train, val or test.
        mirrored: features of the split's mirrored pictures, in the order of its rows.
    """
    table = pd.read_parquet(index, columns=["image_id", "split"])
    rows = np.flatnonzero(table["split"] == split)
    captions = np.load(Path(tokens) / "captions.npy")
    pictures = np.load(Path(tokens) / "pictures.npy")
    grouped = captions_by_picture(captions, pictures, rows)
    return Examples(features, rows, table["image_id"].to_numpy()[rows], grouped, mirrored)


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


def shuffled_batches(pictures: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All pictures in random order.

    Yields:
        (at most size,) numbers below `pictures`, ascending within a batch, as a memory map is best
        read; only the last batch may hold fewer.
    """
    order = rng.permutation(pictures)
    for start in range(0, pictures, size):
        yield np.sort(order[start : start + size])


def people(tokens: np.ndarray) -> list[list[int]]:
    """The captions of a picture as CIDEr-D counts them: word numbers with <end>, no <start>."""
    rows = [row[row != PAD][1:].tolist() for row in tokens]
    return [row for row in rows if row]
