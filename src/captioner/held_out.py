"""The pictures of the test split with all that a model's captions of them are compared with.

People's captions; a caption of the most similar training picture, which is what looking up would do
without a language model; and, where a data set knows what its pictures show, whether a caption is
true.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.datasets import mnist_truth, scene_truth
from captioner.examples import read_references
from captioner.images import read_pictures

# By the source of a data set: (caption, facts about the picture) -> whether it is true.
TRUTH = {"scenes": scene_truth.truthful, "mnist": mnist_truth.truthful}


@dataclass(frozen=True)
class HeldOut:
    """The test split, picture by picture.

    Attributes:
        rows: (pictures,) their picture numbers, one after the other without a gap.
        pictures: columns image_id, split and facts (JSON text or None).
        references: each picture's own captions.
        nearest: columns image_id and caption: of the nearest training picture, its first caption.
        training_captions: all of the training split.
    """

    rows: np.ndarray
    pictures: pd.DataFrame
    references: list[list[str]]
    nearest: pd.DataFrame
    training_captions: list[str]

    def truth(self, source: str) -> dict[str, Callable[[Sequence[str]], np.ndarray]]:
        """The measure `truthful` for `evaluation.Evaluation`, if the data set has one.

        Args:
            source: of the data set, such as "scenes".
        """
        if source not in TRUTH:
            return {}
        facts = [json.loads(text) for text in self.pictures["facts"]]
        return {"truthful": lambda said: np.array(list(map(TRUTH[source], said, facts)), float)}


def read_held_out(captions: Path | str, images: Path | str, pooled: Path | str) -> HeldOut:
    """Read the test split.

    Args:
        captions: Parquet of all captions.
        images: folder of the pictures' shards.
        pooled: .npy of the pooled features (pictures, channels) of all pictures.
    """
    references, training = (read_references(captions, split) for split in ("test", "train"))
    pictures = read_pictures(images, ["image_id", "split", "facts"])
    rows = np.asarray(references.index)
    features = np.load(pooled, mmap_mode="r")
    neighbours = nearest_rows(features, np.asarray(training.index), rows)
    return HeldOut(
        rows,
        pictures.loc[rows],
        references.tolist(),
        pictures.loc[neighbours].assign(caption=training.loc[neighbours].str[0].array),
        training.explode().tolist(),
    )


def nearest_rows(features: np.ndarray, among: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The most similar picture of others, by the cosine of their features.

    Args:
        features: (pictures, size) of all pictures; may be a memory map.
        among: (m,) rows to choose from.
        rows: (n,) rows to find a neighbour for.

    Returns:
        (n,) rows out of `among`; of equally similar ones the first.
    """
    known = _unit(features[among])
    parts = [
        among[(_unit(features[rows[start : start + 512]]) @ known.T).argmax(axis=1)]
        for start in range(0, len(rows), 512)
    ]
    return np.concatenate(parts)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
