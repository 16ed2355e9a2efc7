"""Tables of pictures and captions with all that stands beside them.

A row tells of one picture; several rows may tell of one. Every format gives the same rows: texts to
the letter, numbers as the file writes them, None where a value is missing. Lists and objects beside
the captions (a picture's boxes, say) are left out, and so is a column without a name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import category

from captioner import CaptionerError
from captioner.caption_files.content import decoded, named, read_table
from captioner.caption_files.records import PICTURE_NAMES, REFERENCE_NAMES, Number, listed
from captioner.caption_files.row_formats import csv_cells, json_cells, parquet_cells

AUTO = "auto"


@dataclass(frozen=True)
class Columns:
    """Names of columns. `AUTO`: found by `PICTURE_NAMES`, `REFERENCE_NAMES`; None: not used."""

    picture: str = AUTO
    caption: str = AUTO
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Row:
    """What a table says of one picture.

    Attributes:
        where: its place in the file as a person counts ("line 3").
        picture: name of the picture.
        captions: what stands in the caption's cell, or in the list there: texts, or what is none
            (None, a `Number`), which is for the caller to reject.
        split, group: the cells of these columns.
        extras: the cells of all others, and of `group`, by the column's name, in the file's order.
    """

    where: str
    picture: str | None
    captions: tuple[object, ...]
    split: str | None
    group: str | None
    extras: dict[str, str | None]


def read_rows(path: Path | str, columns: Columns | None = None) -> Iterator[Row]:
    """The rows of a table in its order.

    It is CSV (`,` or `;` or tabs), Parquet, JSON lines, a JSON list of objects, COCO's captions or
    a data set of Karpathy's; or an archive with one such file in it, beside the pictures perhaps.
    COCO's images give their `file_name` and whatever else they hold to each of their captions; the
    name of one of Karpathy's is `filepath/filename`.

    Raises:
        CaptionerError: the file cannot be read or understood, holds no rows, or lacks a column.
    """
    columns = columns or Columns()
    name, data = read_table(Path(path))
    with named(name):
        empty = True
        for row in _rows(PurePosixPath(name).suffix.lower(), data, columns):
            yield row
            empty = False
        if empty:
            raise CaptionerError("holds no captions; is it the right file?")


def _rows(suffix: str, data: bytes, columns: Columns) -> Iterator[Row]:
    header, cells = _cells(suffix, data, columns)
    picture, caption, split, group = _choose(header, columns)
    others = [name for name in header if name not in ("", picture, caption, split)]
    for where, row in cells:
        value = row.get(caption)
        yield Row(
            where,
            _filled(row.get(picture)),
            tuple(value) if isinstance(value, list) else (value,),
            _filled(row.get(split)),
            _filled(row.get(group)),
            {name: _text(row[name]) for name in others if _is_single(row.get(name, []))},
        )


def _cells(
    suffix: str, data: bytes, columns: Columns
) -> tuple[list[str], Iterable[tuple[str, dict[str, object]]]]:
    """The header and, for each row, its place and its cells by the names in the header."""
    if data.startswith(b"PAR1") or (data and suffix in {".parquet", ".pq"}):
        return parquet_cells(data)
    text = decoded(data)
    like_json = text.lstrip()[:1] in ("[", "{") and suffix not in {".csv", ".tsv"}
    if suffix in {".json", ".jsonl", ".ndjson"} or like_json:
        return json_cells(text, _wanted(columns.caption, REFERENCE_NAMES))

    def choose(header: list[str]) -> tuple[str, str] | None:
        try:
            return _choose(header, columns)[:2]
        except CaptionerError:
            return None

    return csv_cells(text, choose)


def _choose(header: Sequence[str], columns: Columns) -> tuple[str, str, str | None, str | None]:
    """The names in `header` of the columns of pictures, captions, splits and groups.

    Raises:
        CaptionerError: a column is not there or stands twice, or a name is not to be shown.
    """
    if not header:
        raise CaptionerError("holds no captions; is it the right file?")
    for name, count in Counter(header).items():
        if name and count > 1:
            raise CaptionerError(f"has {count} columns named {name:.80}; keep one of them")
        if any(category(character) in ("Cc", "Cs") for character in name):
            raise CaptionerError(f"control character in the column name {name!r:.80}; rename it")
    found = []
    for kind, name, usual in (
        ("pictures", columns.picture, PICTURE_NAMES),
        ("captions", columns.caption, REFERENCE_NAMES),
        ("splits", columns.split, ()),
        ("groups", columns.group, ()),
    ):
        if name is None:
            found.append(None)
            continue
        wanted = _wanted(name, usual)
        plain = header if wanted is not usual else [known.lower() for known in header]
        there = next((name for name in wanted if name in plain), None)
        if there is None:
            raise CaptionerError(
                f"no column of {kind} named {' or '.join(wanted)}; found {listed(header)}"
            )
        if plain.count(there) > 1:
            raise CaptionerError(f"has several columns named {there}; say which one is meant")
        place = plain.index(there)
        found.append(header[place])
    return tuple(found)


def _wanted(name: str, usual: Sequence[str]) -> Sequence[str]:
    return usual if name == AUTO and usual else (name,)


def _is_single(value: object) -> bool:
    return not isinstance(value, list | dict)


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _filled(value: object) -> str | None:
    """A name; a whole number's is without the ".0" that pandas writes where a column has gaps."""
    text = _text(value) if _is_single(value) else None
    if isinstance(value, Number):
        text = text.removesuffix(".0")
    return text if text and text.strip() else None
