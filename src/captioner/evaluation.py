"""What a set of generated captions is worth: scores, and the two ends of their scale.

The floor is the best constant caption (said of every picture), the ceiling a person's captions
scored against the other people's. Without them nobody can read a CIDEr-D of 0.5.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from captioner.metrics import CaptionScores, caption_scores, constant_floor, human_ceiling
from captioner.metrics.tokenizer import tokenize


def evaluate_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    training_captions: Sequence[str],
) -> tuple[dict[str, float], CaptionScores]:
    """Score captions and describe them.

    Args:
        captions: one for each picture.
        references: each picture's own captions.
        training_captions: all of them, for the floor and for what was copied from them.

    Returns:
        Metrics by name: scores (fractions; CIDEr-D as the reference prints it), `floor_` and
        `ceiling_` of each (the ceiling where every picture has two references or more),
        `distinct_captions` and `copied_captions` (shares), `vocabulary_used` (words),
        `mean_length` (words); and the scores of each picture.
    """
    scores = caption_scores(references, captions)
    metrics = dict(scores.corpus)
    _, floor = constant_floor(training_captions, references)
    metrics |= {f"floor_{name}": value for name, value in floor.corpus.items()}
    if min(map(len, references)) >= 2:
        ceiling = human_ceiling(references)
        metrics |= {f"ceiling_{name}": value for name, value in ceiling.corpus.items()}
    tokens = [tuple(tokenize(caption)) for caption in captions]
    known = {tuple(tokenize(caption)) for caption in training_captions}
    metrics["distinct_captions"] = len(set(tokens)) / len(tokens)
    metrics["copied_captions"] = float(np.mean([caption in known for caption in tokens]))
    metrics["vocabulary_used"] = len({word for caption in tokens for word in caption})
    metrics["mean_length"] = float(np.mean([len(caption) for caption in tokens]))
    return metrics, scores


def length_histogram(captions: Sequence[str], references: Sequence[Sequence[str]]) -> pd.DataFrame:
    """How long captions are: columns words, generated and references (shares)."""
    own = [len(tokenize(caption)) for caption in captions]
    people = [len(tokenize(reference)) for picture in references for reference in picture]
    longest = max(own + people)
    shares = {
        name: np.bincount(lengths, minlength=longest + 1) / len(lengths)
        for name, lengths in (("generated", own), ("references", people))
    }
    return pd.DataFrame({"words": range(longest + 1), **shares})


def predictions_table(
    pictures: pd.DataFrame,
    captions: Sequence[str],
    log_probabilities: np.ndarray,
    references: Sequence[Sequence[str]],
    scores: CaptionScores,
) -> pa.Table:
    """One row for each picture: image_id, split, caption, log_probability, references and scores.

    Args:
        pictures: columns image_id and split.
        captions, log_probabilities, references, scores: of the same pictures, in this order.
    """
    return pa.table(
        {
            "image_id": pa.array(pictures["image_id"], pa.string()),
            "split": pa.array(pictures["split"], pa.string()),
            "caption": pa.array(captions, pa.string()),
            "log_probability": pa.array(log_probabilities, pa.float32()),
            "references": pa.array(list(references), pa.list_(pa.string())),
            "cider_d": scores.per_picture["cider_d"],
            "rouge_l": scores.per_picture["rouge_l"],
        }
    )
