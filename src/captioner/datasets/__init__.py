"""Data sets: each module reads one source and yields `Picture` and `Rejected` records in a fixed
order."""

from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Picture:
    """One picture as its source holds it.

    Attributes:
        image_id: unique within the data set; never used as a path.
        split: one of `SPLITS`.
        data: the undecoded picture file.
        captions: the references written by people (or by the drawing program).
        facts: what is known to be true of the picture (JSON-serialisable), or None.
    """

    image_id: str
    split: str
    data: bytes
    captions: tuple[str, ...]
    facts: dict | None = None


@dataclass(frozen=True)
class Rejected:
    """What cannot be used of a source: `image_id`, a short `reason`, and the `detail`."""

    image_id: str
    reason: str
    detail: str = ""
