"""What a classifier is worth: what it gets right, and what it takes for what.

Accuracy alone hides which classes are confused and whether a mistake is the picture's fault or the
classifier's; the matrix shows the one (rows are the truth), the most confident mistakes the other.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner import CaptionerError
from captioner.intake import write_csv


def class_labels(
    image_ids: Sequence[str], facts: Sequence[str | None], key: str
) -> tuple[np.ndarray, list[str]]:
    """The class of each picture by one of its facts.

    Args:
        image_ids: of the pictures, for messages.
        facts: for each picture a JSON object, or None.
        key: the fact that is the class.

    Returns:
        (pictures,) numbers of the classes, int64, and the classes' names, sorted.

    Raises:
        CaptionerError: a picture has no such fact, or all pictures have the same.
    """
    values = [_value(text, key) for text in facts]
    missing = [name for name, value in zip(image_ids, values, strict=True) if value is None]
    if missing:
        raise CaptionerError(
            f"data/images: {len(missing)} of {len(values)} pictures, {missing[0]} the first, have "
            f"no {key!r}, from which encoder.backbone course_cnn learns its classes; fill the gaps "
            "or name another column in datasets.table.download.label"
        )
    names, numbers = np.unique(np.array(values, object), return_inverse=True)
    if len(names) < 2:
        raise CaptionerError(
            f"data/images: all pictures have the same {key!r}; encoder.backbone course_cnn needs "
            "two classes or more"
        )
    return numbers, names.tolist()


def _value(text: str | None, key: str) -> str | None:
    """A fact as text; None where there is none, or one that is no single value."""
    value = (json.loads(text) if isinstance(text, str) else {}).get(key)  # pandas: NaN for None
    if value is None or isinstance(value, dict | list):
        return None
    return str(value).strip() or None


@dataclass(frozen=True)
class Classification:
    """Truth and answers for the pictures of a test split.

    Attributes:
        names: of the classes.
        truth: (pictures,) the right class of each.
        probabilities: (pictures, classes) the classifier's.
    """

    names: Sequence[str]
    truth: np.ndarray
    probabilities: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        """(pictures,) the most probable class of each."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose answer is right."""
        return float((self.answers == self.truth).mean())

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) pictures: row the truth, column the answer."""
        classes = len(self.names)
        pairs = np.bincount(self.truth * classes + self.answers, minlength=classes**2)
        return pairs.reshape(classes, classes)

    @property
    def mistakes(self) -> np.ndarray:
        """Places of the wrong answers, the most confident first, equal ones in their order."""
        wrong = np.flatnonzero(self.answers != self.truth)
        confidence = self.probabilities[wrong].max(axis=1)
        return wrong[np.argsort(-confidence, kind="stable")]


def rates(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of each class (fractions of 1); NaN for a class without pictures."""
    right = np.diag(confusion).astype(float)
    with np.errstate(invalid="ignore"):
        return right / confusion.sum(axis=1), right / confusion.sum(axis=0)


def write_tables(folder: Path, image_ids: Sequence[str], found: Classification) -> None:
    """Write confusion.csv, classes.csv and mistakes.csv; names come from people.

    Args:
        folder: for the files.
        image_ids: of the test pictures.
        found: of the same pictures.
    """
    names, confusion = found.names, found.confusion
    write_csv(
        folder / "confusion.csv",
        ("truth", "answer", "pictures"),
        (
            (names[truth], names[answer], str(confusion[truth, answer]))
            for truth, answer in zip(*np.nonzero(confusion), strict=True)
        ),
    )
    write_csv(
        folder / "classes.csv",
        ("class", "pictures", "recall", "precision"),
        (
            (name, str(pictures), *(f"{rate:.4f}" if rate == rate else "" for rate in both))
            for name, pictures, *both in zip(
                names, confusion.sum(axis=1), *rates(confusion), strict=True
            )
        ),
    )
    answers = found.answers
    write_csv(
        folder / "mistakes.csv",
        ("image_id", "truth", "answer", "probability"),
        (
            (
                image_ids[place],
                names[found.truth[place]],
                names[answers[place]],
                f"{found.probabilities[place, answers[place]]:.4f}",
            )
            for place in found.mistakes
        ),
    )
