"""What a set of generated captions is worth: scores, how sure they are, and the scale they are on.

Nobody can read a CIDEr-D of 0.5 alone. So every score stands between three others of the same
pictures: the best constant caption (the floor), the caption of the nearest training picture (what
looking up would do without a language model), and a person's caption against the other people's
(the ceiling); each with its bootstrap interval.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa

from captioner import breakdown
from captioner.metrics import (
    MEASURES,
    CaptionScorer,
    constant_floor,
    java,
    mean_scores,
)
from captioner.metrics.bootstrap import SAMPLES, confidence_intervals, interval_of_mean
from captioner.words import joined, words_of_all

# How the metrics of a system are named: the model's own stand alone.
PREFIXES = {"model": "", "constant": "floor_", "nearest": "nearest_", "human": "ceiling_"}

PictureMeasure = Callable[[Sequence[str]], np.ndarray]


class Evaluation:
    """Captions of a test split beside their references, scored.

    Args:
        captions: one for each picture.
        references: each picture's own captions.
        training_captions: all of them, for the constant caption and for what was copied.
        nearest: the caption of each picture's nearest training picture.
        seed, samples: of the bootstrap.
        java_measures: any of "meteor" and "spice".
        others: further measures by name: one caption for each picture -> (pictures,) values.
        split_characters: whether Chinese and Japanese characters are words of their own.

    Attributes:
        captions, references: as tokens.
        split_characters: as given.
        constant: the best constant caption.
        scores: the model's.
        per_picture: measure -> (pictures,), the model's.
        table: columns system (model, nearest, constant, human), measure, score, low, high; scores
            are fractions (CIDEr-D up to 10), low and high the ends of the 95% interval.
    """

    def __init__(
        self,
        captions: Sequence[str],
        references: Sequence[Sequence[str]],
        training_captions: Sequence[str],
        nearest: Sequence[str],
        seed: int,
        samples: int = SAMPLES,
        java_measures: Sequence[str] = (),
        others: dict[str, PictureMeasure] | None = None,
        split_characters: bool = False,
    ) -> None:
        self.split_characters = split_characters
        self.captions = words_of_all(captions, split_characters)
        words = iter(words_of_all([one for group in references for one in group], split_characters))
        self.references = [list(islice(words, len(group))) for group in references]
        training = words_of_all(training_captions, split_characters)
        self._known = set(map(tuple, training))
        lines = [list(map(" ".join, group)) for group in self.references]
        scorer = CaptionScorer(lines, tokenized=True)
        self.scores = scorer.score_tokens(self.captions)
        self.per_picture = dict(self.scores.per_picture)
        line, floor = constant_floor(list(map(" ".join, training)), scorer, tokenized=True)
        self.constant = joined(line.split(" "), split_characters)
        # What each system says: a caption for each picture; people in as many rounds as they are.
        said = {
            "model": [captions],
            "nearest": [nearest],
            "constant": [[self.constant] * len(captions)],
        }
        scored = {
            "model": [self.scores],
            "nearest": [scorer.score_tokens(words_of_all(nearest, split_characters))],
            "constant": [floor],
        }
        if (people := min(map(len, references))) >= 2:
            said["human"] = [[group[one] for group in references] for one in range(people)]
            scored["human"] = scorer.human_ceiling()
        rows = []
        for system, rounds in scored.items():
            intervals = confidence_intervals(rounds, seed, samples)
            means = mean_scores(rounds)
            rows += [(system, name, means[name], *intervals[name]) for name in MEASURES]
        for name, measure in (others or {}).items():
            for system, rounds in said.items():
                values = np.mean([measure(captions) for captions in rounds], axis=0)
                interval = interval_of_mean(values, seed, samples)
                rows.append((system, name, float(values.mean()), *interval))
                if system == "model":
                    self.per_picture[name] = values
        for name in java_measures:
            for system, score, values in self._java(name, said):
                low, high = interval_of_mean(values, seed, samples)
                # METEOR's corpus score is not the mean of the pictures', but moves with it.
                shift = score - float(values.mean())
                rows.append((system, name, score, low + shift, high + shift))
                if system == "model":
                    self.per_picture[name] = values
        self.table = pd.DataFrame(rows, columns=["system", "measure", "score", "low", "high"])

    def _java(self, name: str, said: dict[str, list[Sequence[str]]]) -> Iterator[tuple]:
        """Score all systems by one Java program: system, corpus score, scores of the pictures."""
        references = [[" ".join(caption) for caption in group] for group in self.references]
        with java.PROGRAMS[name]() as program:
            for system, rounds in said.items():
                found = []
                for number, captions in enumerate(rounds):
                    others = references
                    if system == "human":  # a person's caption is no reference for itself
                        others = [[*group[:number], *group[number + 1 :]] for group in references]
                    words = words_of_all(captions, self.split_characters)
                    tokens = list(map(" ".join, words))
                    found.append(program.scores(others, tokens, progress=True))
                scores, per_picture = zip(*found, strict=True)
                yield system, float(np.mean(scores)), np.mean(per_picture, axis=0)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All numbers by name.

        Each measure with `_low` and `_high`, and behind `floor_`, `nearest_` and `ceiling_` (the
        ceiling where every picture has two references or more); `distinct_captions` and
        `copied_captions` (whole, from the training captions): shares; `vocabulary_used` (words);
        `mean_length` and `references_mean_length` (words); `content_word_recall`: the mean recall
        of `breakdown.by_word`, each word as often as pictures have it.
        """
        metrics: dict[str, float] = {}
        for system, name, score, low, high in self.table.itertuples(index=False):
            metrics[PREFIXES[system] + name] = score
            if system == "model":
                metrics |= {f"{name}_low": low, f"{name}_high": high}
        tokens = [tuple(caption) for caption in self.captions]
        metrics["distinct_captions"] = len(set(tokens)) / len(tokens)
        metrics["copied_captions"] = float(np.mean([caption in self._known for caption in tokens]))
        metrics["vocabulary_used"] = len({word for caption in tokens for word in caption})
        metrics["mean_length"] = float(np.mean([len(caption) for caption in tokens]))
        lengths = [len(caption) for group in self.references for caption in group]
        metrics["references_mean_length"] = float(np.mean(lengths))
        words = breakdown.by_word(self.captions, self.references, self.scores.cider_d)
        if len(words):
            recalled = float((words["recall"] * words["pictures"]).sum())
            metrics["content_word_recall"] = recalled / int(words["pictures"].sum())
        return metrics


def predictions_table(
    pictures: pd.DataFrame,
    captions: Sequence[str],
    log_probabilities: np.ndarray,
    references: Sequence[Sequence[str]],
    nearest: pd.DataFrame,
    per_picture: dict[str, np.ndarray],
) -> pa.Table:
    """One row for each picture, all arguments in this order.

    Args:
        pictures: columns image_id and split.
        captions, log_probabilities, references: what the model says, and people.
        nearest: columns image_id and caption of the nearest training picture.
        per_picture: measure -> (pictures,).
    """
    return pa.table(
        {
            "image_id": pa.array(pictures["image_id"], pa.string()),
            "split": pa.array(pictures["split"], pa.string()),
            "caption": pa.array(captions, pa.string()),
            "log_probability": pa.array(log_probabilities, pa.float32()),
            "references": pa.array(list(references), pa.list_(pa.string())),
            "nearest_image_id": pa.array(nearest["image_id"], pa.string()),
            "nearest_caption": pa.array(nearest["caption"], pa.string()),
            **{name: pa.array(values, pa.float64()) for name, values in per_picture.items()},
        }
    )
