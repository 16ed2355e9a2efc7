"""Captions as others store them: COCO JSON, plain JSON, JSON lines, CSV, Parquet, Flickr's tokens.

A picture is known by its id as text: 391895 and "391895" are one picture, and so is 391895.0, which
pandas makes of a whole number beside a gap. Ids and captions are otherwise taken to the letter. The
order is the file's. What is stored:

- COCO annotations, `{"images": [...], "annotations": [{"image_id": ..., "caption": ...}]}`; images
  without an annotation are no pictures here;
- COCO results, `[{"image_id": ..., "caption": ...}]`, or `"captions": [...]` in their place; the
  same objects as JSON lines;
- plain JSON, `{id: caption}` or `{id: [caption, ...]}`;
- CSV (`,` or `;` or tabs, with a header) and Parquet: a column of `PICTURE_NAMES` and one of
  `REFERENCE_NAMES` or `HYPOTHESIS_NAMES`, the earliest name that is there; Parquet may hold lists;
- Flickr8k's tokens, lines of `name.jpg#0<TAB>caption`.

References of one picture may stand in several rows, anywhere. Sources: cocodataset.org, "Data
format" and "Results format"; RFC 4180 (CSV); jsonlines.org.
"""

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner import CaptionerError

PICTURE_NAMES = ("image_id", "image", "file_name", "filename", "picture", "id")
REFERENCE_NAMES = ("references", "captions", "caption", "text", "title", "sentence")
HYPOTHESIS_NAMES = ("caption", "captions", "text", "title", "sentence")

_TOKEN_LINE = re.compile(r"(?P<name>[^\t\n]+)#\d+\t(?P<caption>.*)")
_WHOLE = re.compile(r"-?\d+\.0")
_LIST_AS_TEXT = re.compile(r"\s*\[\s*(['\"]).*['\"]\s*\]\s*", re.DOTALL)
# A text in JSON, or what Python reads in JSON though it is none.
_JSON_TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')

# Where it stands in the file as a person counts, the id as it stands there, the caption or captions
Record = tuple[str, object, object]


def read_references(path: Path | str) -> dict[str, list[str]]:
    """The reference captions of each picture, one or more.

    Raises:
        CaptionerError: the file cannot be read or understood, holds no captions, a picture has none
            or an empty one, an id is missing, a caption is no text.
    """
    references: dict[str, list[str]] = {}
    with _named(path):
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
    """The generated caption of each picture; it may be empty.

    Raises:
        CaptionerError: the file cannot be read or understood, holds no captions, a picture has none
            or several, an id is missing, a caption is no text.
    """
    hypotheses: dict[str, str] = {}
    places: dict[str, str] = {}
    with _named(path):
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


@contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except CaptionerError as problem:
        raise CaptionerError(f"{path}: {problem}") from None


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
        f"{where}: the picture's id is {_kind(value)}; write it as a text or a whole number"
    )


def _captions(place: str, value: object) -> list[str]:
    captions = value if isinstance(value, list) else [value]
    for caption in captions:
        if not isinstance(caption, str):
            raise CaptionerError(
                f"{place}: a caption is {_kind(caption)} and no text; mend it or leave it out"
            )
    return captions


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value!s:.30}" if value == value else "NaN"
    return {dict: "an object", list: "a list", bytes: "bytes"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _shown(raw_id: object) -> str:
    return f"{raw_id!s:.80}" if isinstance(raw_id, (str, int)) else _kind(raw_id)


def _records(path: Path, names: Sequence[str]) -> Iterator[Record]:
    """All records of a file in its order, the format told by its content and its suffix."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CaptionerError("no such file") from None
    except IsADirectoryError:
        raise CaptionerError("is a folder; name the file of captions in it") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise CaptionerError(f"cannot be read ({getattr(error, 'strerror', error)})") from None
    suffix = path.suffix.lower()
    if data.startswith(b"PAR1") or (data and suffix in {".parquet", ".pq"}):
        return _parquet_records(data, names)
    text = _decoded(data)
    start = re.search(r"\S", text)
    if start is None:
        _not_empty(())
    if suffix in {".json", ".jsonl", ".ndjson"}:
        return _json_records(text, names)
    if _TOKEN_LINE.match(text, start.start()):  # neither JSON nor a header with our names does
        return _token_records(text)
    if start[0] in "[{" and suffix not in {".csv", ".tsv"}:
        return _json_records(text, names)
    return _table_records(text, names)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaptionerError(
            f"line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """("line 3", the line) of all lines that are not blank.

    Not by splitlines, which also splits at characters that may stand inside a caption (U+2028).
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.rstrip("\r")


def _token_records(text: str) -> Iterator[Record]:
    for where, line in _lines(text):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            raise CaptionerError(f"{where}: expected NAME#NUMBER, a tab, a caption: {line:.80}")
        yield where, match["name"], match["caption"]


# JSON


def _json_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    try:
        document, constants = _parsed(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _json_line_records(text, names)
            return
        raise CaptionerError(
            f"line {error.lineno}, column {error.colno}: no JSON, or cut off ({error.msg})"
        ) from None
    if isinstance(document, list):
        yield from _object_records("entry", document, names)
    elif not isinstance(document, dict):
        raise CaptionerError(f"holds {_kind(document)} and no captions; is it the right file?")
    elif any(_of_objects(document.get(key)) for key in ("images", "annotations")):
        if "annotations" not in document:
            raise CaptionerError('has "images" but no "annotations"; is it a list of test images?')
        if not isinstance(document["annotations"], list):
            raise CaptionerError(f'"annotations" is {_kind(document["annotations"])} and no list')
        yield from _object_records("annotation", document["annotations"], names)
    elif "image_id" in document and any(name in document for name in names):
        yield from _object_records("entry", [document], names)  # JSON lines of one line
    else:
        for number, (key, value) in enumerate(document.items(), start=1):
            yield f"entry {number}", key, value
    if constants:  # in a caption they are named before, with their picture
        found = next(m for m in _JSON_TEXT_OR_CONSTANT.finditer(text) if m[0][0] != '"')
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise CaptionerError(
            f"line {line}, column {column}: {found[0]} is no JSON; write null in its place"
        )


def _json_line_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    for where, line in _lines(text):
        try:
            value, constants = _parsed(line)
        except json.JSONDecodeError as error:
            raise CaptionerError(
                f"{where}, column {error.colno}: no JSON, or cut off ({error.msg})"
            ) from None
        except CaptionerError as error:
            raise CaptionerError(f"{where}: {error}") from None
        yield _object_record(where, value, names)
        if constants:
            raise CaptionerError(f"{where}: {constants[0]} is no JSON; write null in its place")


def _parsed(text: str) -> tuple[object, list[str]]:
    """The value that `text` stands for, and what Python took for numbers though JSON has none such.

    Raises:
        JSONDecodeError: no JSON.
        CaptionerError: JSON that cannot be meant: a key twice, absurd nesting or numbers.
    """
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise CaptionerError("lists or objects nested too deep; is it the right file?") from None
    except ValueError:
        raise CaptionerError("a number of thousands of digits; is it the right file?") from None
    return value, constants


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A dict, but not of the last value where a key stands twice: json drops the others unseen."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))
    of = f" (picture {_shown(found['image_id'])})" if "image_id" in found else ""
    raise CaptionerError(f"the key {twice:.80} stands twice in one object{of}; keep one of them")


def _of_objects(value: object) -> bool:
    """Whether it is COCO's list, and not the captions of a picture that is named "images"."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _object_records(what: str, values: list, names: Sequence[str]) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        yield _object_record(f"{what} {number}", value, names)


def _object_record(where: str, value: object, names: Sequence[str]) -> Record:
    if not isinstance(value, dict):
        raise CaptionerError(
            f"{where}: {_kind(value)}; expected an object with image_id and {names[0]}"
        )
    image_id = next((name for name in PICTURE_NAMES if name in value), None)
    if image_id is None:
        raise CaptionerError(f"{where}: the picture's id is missing: no image_id in {_list(value)}")
    caption = next((name for name in names if name in value), None)
    if caption is None:
        raise CaptionerError(
            f"{where} (picture {_shown(value[image_id])}): no {names[0]} in {_list(value)}"
        )
    return where, value[image_id], value[caption]


# Tables


def _table_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    headers = []
    for delimiter in ",;\t":  # the header decides: captions hold commas and semicolons of their own
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
        except csv.Error:
            continue
        headers.append(header)
        if None not in _columns(header, names):
            return _table_rows(rows, header, names)
    raise _no_columns(max(headers, key=len, default=[]), names)


def _table_rows(rows: "csv._reader", header: list[str], names: Sequence[str]) -> Iterator[Record]:
    image_id, caption = _columns(header, names)
    found = []
    line = rows.line_num + 1
    try:
        for row in rows:
            where, line = f"line {line}", rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise CaptionerError(
                    f"{where}: {len(row)} fields where the header has {len(header)}; put captions "
                    'that hold the delimiter into quotes ("")'
                )
            if _LIST_AS_TEXT.fullmatch(row[caption]):
                raise CaptionerError(
                    f"{where} (picture {row[image_id]:.80}): a list written as text; give each "
                    "caption a row of its own, or use Parquet or JSON"
                )
            found.append((where, row[image_id], row[caption]))
    except csv.Error as error:  # often a quote that is never closed: name the line that opened it
        raise CaptionerError(f"line {line}: no proper CSV ({error}); look at its quotes") from None
    # All of them, or none: "1" and "1.0" of one file are two pictures.
    if all(_WHOLE.fullmatch(name) for _, name, _ in found if name):
        found = [(where, name.removesuffix(".0"), text) for where, name, text in found]
    yield from found


def _parquet_records(data: bytes, names: Sequence[str]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        header = file.schema_arrow.names
        columns = [header[i] for i in _columns(header, names) if i is not None]
        if len(columns) < 2:
            raise _no_columns(header, names)
        row = 0
        for batch in file.iter_batches(columns=columns):
            ids, captions = (batch.column(name).to_pylist() for name in columns)
            for image_id, value in zip(ids, captions, strict=True):
                row += 1
                yield f"row {row}", image_id, value
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CaptionerError(f"damaged, or no Parquet file ({reason:.120})") from None


def _columns(header: Sequence[str], names: Sequence[str]) -> tuple[int | None, int | None]:
    """Where the ids and the captions stand: the earliest name of each kind that is there."""
    plain = [name.strip().lower() for name in header]
    image_id, caption = (
        next((name for name in kind if name in plain), None) for kind in (PICTURE_NAMES, names)
    )
    for name in (image_id, caption):
        if plain.count(name) > 1:
            raise CaptionerError(f"has {plain.count(name)} columns named {name}; keep one of them")
    return (
        None if image_id is None else plain.index(image_id),
        None if caption is None else plain.index(caption),
    )


def _no_columns(header: Sequence[str], names: Sequence[str]) -> CaptionerError:
    image_id, _ = _columns(header, names)
    kind, wanted = ("pictures", PICTURE_NAMES) if image_id is None else ("captions", names)
    return CaptionerError(
        f"no column of {kind}; found {_list(header)}; name one of them {' or '.join(wanted)}"
    )


def _list(names: Collection[str]) -> str:
    shown = ", ".join(f"{name:.40}" for name in list(names)[:10])
    return (shown + (" ..." if len(names) > 10 else "")) or "nothing"
