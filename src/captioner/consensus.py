"""Which of a picture's captions fit what people say of pictures like it.

A beam ends with captions that the model finds about equally likely. The one to choose is that which
agrees most with the captions of the training pictures in which the same words are seen, by CIDEr-D:
the "consensus caption" of Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image
Captioning", here among captions that the model made for the picture itself, as in "Deep Captioning
with Multimodal Recurrent Neural Networks" (Mao et al. 2015).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from captioner.examples import people, read_examples, read_features
from captioner.graph import graph_function
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.text import END, PAD

NEIGHBOURS = 60  # training pictures whose captions are heard
SHARPNESS = 10.0  # a neighbour counts exp(SHARPNESS * cosine)
MOST = 10_000  # training pictures that are kept
MOST_TOKENS = 2**22  # of their captions, padding included; counting n-grams takes 200 bytes each
BATCH = 256  # pictures a call

Seen = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Told:
    """Training pictures, and what people say of them.

    Attributes:
        places: (pictures, words) float16, of length one: how much each word is seen in a picture.
        tokens: (pictures, captions, length) uint16, see `Examples.tokens`.
    """

    places: np.ndarray
    tokens: np.ndarray


def told_of(seen: Seen, features: np.ndarray, tokens: np.ndarray) -> Told:
    """What is told of training pictures; of too many (`MOST`, `MOST_TOKENS`) some, evenly spread.

    Args:
        seen: see `Consensus`.
        features: (pictures, 1, channels) float16, pooled; may be a memory map.
        tokens: (pictures, captions, length) integer.
    """
    most = min(MOST, max(1, MOST_TOKENS // max(1, tokens[0].size)), len(tokens))
    chosen = np.linspace(0, len(tokens) - 1, most).astype(int)
    starts = range(0, len(chosen), BATCH)
    places = [_places(seen, features[chosen[start : start + BATCH]]) for start in starts]
    return Told(np.concatenate(places).astype(np.float16), tokens[chosen].astype(np.uint16))


def read_told(seen: Seen, features: Path | str, tokens: Path | str) -> Told:
    """What is told of the training split, from the folders that the stages write."""
    pooled = read_features(features, "pooled")
    train = read_examples(pooled, Path(features) / "index.parquet", tokens, "train")
    return told_of(seen, pooled[train.rows], train.tokens)


class Consensus:
    """How far captions agree with people's captions of similar pictures.

    Args:
        seen: features (pictures, cells, channels) float16 to (pictures, words), none negative: how
            much each word is seen in a picture, like `JointModel.likelier`.
        told: of the same words.
    """

    def __init__(self, seen: Seen, told: Told):
        self._seen = graph_function(seen, reduce_retracing=True)
        self._places = told.places.astype(np.float32)
        self._scorer = CiderD(ReferenceNGrams([people(group) or [[END]] for group in told.tokens]))

    def __call__(self, features: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Compare.

        Args:
            features: (pictures, cells, channels) float16.
            words: (pictures, captions, length) integer, without <start> and <end>, padded.

        Returns:
            (pictures, captions) float64, the mean CIDEr-D with the captions of each of the nearest
            training pictures, the nearer the heavier, from 0 to 10; document frequencies are those
            of the training pictures.
        """
        near = _places(self._seen, features) @ self._places.T
        count = min(NEIGHBOURS, near.shape[1])
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        weights = np.exp(SHARPNESS * np.take_along_axis(near, order, 1))
        weights /= weights.sum(1, keepdims=True)
        captions = [[*row[row != PAD].tolist(), END] for picture in words for row in picture]
        shape = (*words.shape[:2], count)
        said = [caption for caption in captions for _ in range(count)]
        heard = np.broadcast_to(order[:, None], shape).ravel()
        scores = self._scorer.score(said, heard).reshape(shape)
        return (scores * weights[:, None]).sum(-1)


def _places(seen: Seen, features: np.ndarray) -> np.ndarray:
    """(pictures, words) float32 of length one, or zeros where nothing is seen."""
    found = np.asarray(seen(tf.constant(features)))
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
