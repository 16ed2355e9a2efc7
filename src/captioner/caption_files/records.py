"""What every format of caption files is read into, and how its faults are named."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from captioner import CaptionerError

PICTURE_NAMES = ("image_id", "image", "file_name", "filename", "picture", "id")
REFERENCE_NAMES = ("references", "captions", "caption", "text", "title", "sentence")
HYPOTHESIS_NAMES = ("caption", "captions", "text", "title", "sentence")

# Bounds on what is read at once, far above any data set of captions in use (COCO: 0.6 million).
MAX_ROWS = 5_000_000
MAX_COLUMNS = 10_000
MAX_VALUES = 20_000_000  # of a JSON file; with all its tokens Karpathy's COCO has 10 million
MAX_CAPTION = 10_000  # characters, some 2,000 words; longer texts are no captions
MAX_CELL, MAX_TEXT = 2**20, 2**30  # bytes of a cell, and of all, in Parquet

# Where it stands in the file as a person counts, the id as it stands there, the caption or captions
Record = tuple[str, object, object]


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written in a file: 1.50 and 2017.0 are not 1.5 and 2017."""

    text: str

    def __str__(self) -> str:
        return self.text


def check_rows(number: int) -> None:
    """Raise CaptionerError for more rows than are read at once."""
    if number > MAX_ROWS:
        raise CaptionerError(
            f"holds more than {MAX_ROWS:,} rows; take those of your pictures out of it"
        )


def lines(text: str) -> Iterator[tuple[str, str]]:
    """("line 3", the line) of all lines that are not blank.

    Not by splitlines, which also splits at characters that may stand inside a caption (U+2028).
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.rstrip("\r")


def kind(value: object) -> str:
    """What a value is that should be something else, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, Number)):
        return f"the number {value!s:.30}" if value == value else "NaN"
    return {dict: "an object", list: "a list", bytes: "bytes"}.get(
        type(value), f"a {type(value).__name__}"
    )


def shown(raw_id: object) -> str:
    """An id as it stands in the file, if it is one."""
    return f"{raw_id!s:.80}" if isinstance(raw_id, (str, int)) else kind(raw_id)


def listed(names: Collection[str]) -> str:
    """Keys or columns that are there instead of those looked for."""
    shown = ", ".join(f"{name:.40}" for name in list(names)[:10])
    return (shown + (" ..." if len(names) > 10 else "")) or "nothing"
