"""Captions as others store them: COCO's and Karpathy's JSON, plain JSON, JSON lines, CSV, Parquet,
Flickr's tokens.

A picture is known by its id as text: 391895 and "391895" are one picture, and so is 391895.0, which
pandas makes of a whole number beside a gap. Ids and captions are otherwise taken to the letter. The
order is the file's. What is stored:

- COCO annotations, `{"images": [...], "annotations": [{"image_id": ..., "caption": ...}]}`; images
  without an annotation are no pictures here;
- Karpathy's data sets, `{"images": [{"filename": ..., "sentences": [{"raw": ...}]}]}`: the id is
  the filename, which is unique without its `filepath`;
- COCO results, `[{"image_id": ..., "caption": ...}]`, or `"captions": [...]` in their place; the
  same objects as JSON lines;
- plain JSON, `{id: caption}` or `{id: [caption, ...]}`;
- CSV (`,` or `;` or tabs, with a header) and Parquet: a column of `PICTURE_NAMES` and one of
  `REFERENCE_NAMES` or `HYPOTHESIS_NAMES`, the earliest name that is there; Parquet may hold lists;
- Flickr8k's tokens, lines of `name.jpg#0<TAB>caption`.

References of one picture may stand in several rows, anywhere. `read_rows` reads most of these
formats with all that stands beside the captions. Sources: cocodataset.org, "Data
format" and "Results format"; RFC 4180 (CSV); jsonlines.org.
"""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from captioner import CaptionerError
from captioner.caption_files.content import decoded, named, read_bytes
from captioner.caption_files.json_files import json_records
from captioner.caption_files.records import (
    HYPOTHESIS_NAMES,
    MAX_CAPTION,
    PICTURE_NAMES,
    REFERENCE_NAMES,
    Record,
    check_rows,
    kind,
    lines,
)
from captioner.caption_files.rows import Columns, Row, read_rows
from captioner.caption_files.tables import parquet_records, table_records

__all__ = [
    "HYPOTHESIS_NAMES",
    "PICTURE_NAMES",
    "REFERENCE_NAMES",
    "Columns",
    "Row",
    "read_hypotheses",
    "read_references",
    "read_rows",
]

_TOKEN_LINE = re.compile(r"(?P<name>[^\t\n]+)#\d+\t(?P<caption>.*)")


def read_references(path: Path | str) -> dict[str, list[str]]:
    """The reference captions of each picture, one or more.

    Raises:
        CaptionerError: the file cannot be read or understood, holds no captions, a picture has none
            or an empty one, an id is missing, a caption is no text.
    """
    references: dict[str, list[str]] = {}
    with named(path):
        for where, raw_id, value in _records(Path(path), REFERENCE_NAMES):
            image_id = _image_id(where, raw_id)
            place = f"{where} (picture {image_id:.80})"
            captions = _captions(place, value)
            if not captions:
                raise CaptionerError(f"{place}: has no reference caption; leave the picture out")
            if not all(caption.strip() for caption in captions):
                raise CaptionerError(f"{place}: a reference caption is empty; leave it out")
            references.setdefault(image_id, []).extend(captions)
        _not_empty(references)
    return references


def read_hypotheses(path: Path | str) -> dict[str, str]:
    """The generated caption of each picture; it may be empty, but for CSV, where that is missing.

    Raises:
        CaptionerError: the file cannot be read or understood, holds no captions, a picture has none
            or several, an id is missing, a caption is no text.
    """
    hypotheses: dict[str, str] = {}
    places: dict[str, str] = {}
    with named(path):
        for where, raw_id, value in _records(Path(path), HYPOTHESIS_NAMES):
            image_id = _image_id(where, raw_id)
            place = f"{where} (picture {image_id:.80})"
            captions = _captions(place, value)
            if len(captions) != 1:
                raise CaptionerError(
                    f"{place}: has {len(captions)} captions; give one generated caption a picture"
                )
            if image_id in places:
                raise CaptionerError(
                    f"{place}: the picture has a caption in {places[image_id]} already; give one "
                    "generated caption a picture"
                )
            places[image_id] = where
            hypotheses[image_id] = captions[0]
        _not_empty(hypotheses)
    return hypotheses


def _not_empty(found: Collection[str]) -> None:
    if not found:
        raise CaptionerError("holds no captions; is it the right file?")


def _image_id(where: str, value: object) -> str:
    gap = value is None or (isinstance(value, float) and math.isnan(value))
    if gap or (isinstance(value, str) and not value.strip()):
        raise CaptionerError(f"{where}: the picture's id is missing; give every caption one")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # Beyond 2**53 a float has lost digits, and pictures would fall together.
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return str(int(value))
    raise CaptionerError(
        f"{where}: the picture's id is {kind(value)}; write it as a text or a whole number"
    )


def _captions(place: str, value: object) -> list[str]:
    captions = value if isinstance(value, list) else [value]
    for caption in captions:
        if caption is None:
            raise CaptionerError(f"{place}: the caption is missing; fill it in or leave it out")
        if not isinstance(caption, str):
            raise CaptionerError(
                f"{place}: a caption is {kind(caption)} and no text; mend it or leave it out"
            )
        if len(caption) > MAX_CAPTION:
            raise CaptionerError(
                f"{place}: a caption of {len(caption):,} characters, at most {MAX_CAPTION:,} are "
                "possible; cut it or leave it out"
            )
    return captions


def _records(path: Path, names: Sequence[str]) -> Iterator[Record]:
    """All records of a file in its order, the format told by its content and its suffix."""
    data = read_bytes(path)
    suffix = path.suffix.lower()
    if data.startswith(b"PAR1") or (data and suffix in {".parquet", ".pq"}):
        return parquet_records(data, names)
    text = decoded(data)
    start = re.search(r"\S", text)
    if start is None:
        _not_empty(())
    if suffix in {".json", ".jsonl", ".ndjson"}:
        return json_records(text, names)
    if _TOKEN_LINE.match(text, start.start()):  # neither JSON nor a header with our names does
        return _token_records(text)
    if start[0] in "[{" and suffix not in {".csv", ".tsv"}:
        return json_records(text, names)
    return table_records(text, names)


def _token_records(text: str) -> Iterator[Record]:
    check_rows(text.count("\n"))
    for where, line in lines(text):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            raise CaptionerError(f"{where}: expected NAME#NUMBER, a tab, a caption: {line:.80}")
        yield where, match["name"], match["caption"]
