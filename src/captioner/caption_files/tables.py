"""Captions in tables: CSV, whose header says what is where and what separates it, and Parquet."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.caption_files.records import (
    MAX_CELL,
    MAX_COLUMNS,
    MAX_TEXT,
    PICTURE_NAMES,
    Record,
    check_rows,
    listed,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_WHOLE = re.compile(r"-?\d+\.0")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LIST_AS_TEXT = re.compile(r"\s*\[\s*(['\"]).*['\"]\s*\]\s*", re.DOTALL)


def table_records(text: str, names: Sequence[str]) -> Iterator[Record]:

    def picture_column(header: list[str]) -> int | None:
        columns = _columns(header, names)
        return None if None in columns else columns[0]

    header, rows = csv_rows(text, picture_column)
    if rows is None:
        raise _no_columns(header, names)
    image_id, caption = _columns(header, names)
    found = []
    for where, row in rows:
        refuse_list_as_text(where, row[image_id], row[caption])
        # pandas writes a missing caption (NaN) as nothing between two commas.
        found.append((where, row[image_id], row[caption] or None))
    ids = whole_numbers([name for _, name, _ in found])
    yield from ((where, name, text) for name, (where, _, text) in zip(ids, found, strict=True))


def csv_rows(
    text: str, picture_column: Callable[[list[str]], int | None]
) -> tuple[list[str], Iterator[tuple[str, list[str]]] | None]:
    """The header and the rows, each with its place, by the first delimiter whose header fits.

    Where none fits: None for the rows, and the longest header, for the message.

    Args:
        picture_column: where a header has the pictures' names; None where it does not fit.
    """
    check_rows(text.count("\n"))
    csv.field_size_limit(MAX_CELL)  # cells of embeddings are longer than the usual 131,072
    lines = _LINE.findall(text)
    headers, problem = [], None
    for delimiter in ",;\t":  # the header decides: captions hold commas and semicolons of their own
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
        except csv.Error as error:
            problem = error
            continue
        headers.append(header)
        if len(header) <= MAX_COLUMNS and (picture := picture_column(header)) is not None:
            return header, _rows_below(rows, header, picture, lines, delimiter)
    if not headers:
        raise CaptionerError(f"line 1: no proper CSV ({problem})")
    header = max(headers, key=len)
    _check_columns(len(header))
    return header, None


def _check_columns(number: int) -> None:
    if number > MAX_COLUMNS:
        raise CaptionerError(f"has {number:,} columns, at most {MAX_COLUMNS:,}; leave some out")


def _rows_below(
    rows: "csv._reader", header: list[str], picture: int, lines: list[str], delimiter: str
) -> Iterator[tuple[str, list[str]]]:
    line = rows.line_num + 1
    try:
        for row in rows:
            first, line = line, rows.line_num + 1
            where = f"line {first}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                spans = f", up to line {line - 1} in quotes" if line - 1 > first else ""
                raise CaptionerError(
                    f"{where}: {len(row)} fields{spans} where the header has {len(header)}; put "
                    'captions that hold the delimiter into quotes ("")'
                )
            if _swallows_rows(row, picture, lines[first : line - 1], delimiter):
                raise CaptionerError(
                    f"{where}: a quote opens a cell that goes on to line {line - 1}, over lines "
                    "that look like rows of their own; close or double the quote, or write the "
                    "cell in one line"
                )
            yield where, row
    except csv.Error as error:  # often a quote that is never closed: name the line that opened it
        raise CaptionerError(f"line {line}: no proper CSV ({error}); look at its quotes") from None


def _swallows_rows(row: list[str], picture: int, inner: list[str], delimiter: str) -> bool:
    """Whether lines within a row, after its first, have as many fields and such a picture's name.

    Of names that could be words of a caption one such line proves nothing: all must be so.
    """
    kind = _kind_of_name(row[picture])
    if not inner or kind is None:
        return False
    alike = [
        len(cells) == len(row) and _kind_of_name(cells[picture]) == kind
        for cells in csv.reader(inner, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    ]
    return len(alike) > 1 and all(alike) if kind == "word" else any(alike)


def _kind_of_name(name: str) -> str | None:
    """What the name of a picture is like; None where a caption could begin so as well."""
    name = name.strip().strip('"')
    if re.search(r"\.(jpe?g|jfif|png|webp|bmp|gif|tiff?)$", name, re.IGNORECASE):
        return "picture file"
    if name.isdecimal():
        return "number"
    if not name or " " in name:
        return None
    return "with digits" if re.search(r"\d", name) else "word"


def refuse_list_as_text(where: str, image_id: str, caption: str) -> None:
    """CSV has no lists; what Python or pandas writes for one would be taken for a caption."""
    if _LIST_AS_TEXT.fullmatch(caption):
        raise CaptionerError(
            f"{where} (picture {image_id:.80}): a list written as text; give each caption a row of "
            "its own, or use Parquet or JSON"
        )


def whole_numbers(names: list[str]) -> list[str]:
    """Without the ".0" that pandas writes behind all whole numbers of a column with a gap.

    All of them, or none: "1" and "1.0" of one file are two pictures.
    """
    if all(_WHOLE.fullmatch(name) for name in names if name):
        return [name.removesuffix(".0") for name in names]
    return names


def parquet_records(data: bytes, names: Sequence[str]) -> Iterator[Record]:
    with parquet_errors():
        file = open_parquet(data)
        header = file.schema_arrow.names
        columns = [header[i] for i in _columns(header, names) if i is not None]
        if len(columns) < 2:
            raise _no_columns(header, names)
        row = 0
        for batch in parquet_batches(file, columns):
            ids, captions = (batch.column(name).to_pylist() for name in columns)
            for image_id, value in zip(ids, captions, strict=True):
                row += 1
                yield f"row {row}", image_id, value


def open_parquet(data: bytes) -> "pq.ParquetFile":
    """A Parquet file, its rows and columns counted before any is read.

    Texts stay in the file's dictionaries: a long one that a million rows repeat is there once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data)) as file:
        check_rows(file.metadata.num_rows)
        _check_columns(file.metadata.num_columns)
        schema = file.schema_arrow
    texts = [field.name for field in schema if field.type in (pa.string(), pa.large_string())]
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)


def parquet_batches(file: "pq.ParquetFile", columns: list[str]) -> Iterator["pa.RecordBatch"]:
    """Batches of rows.

    Raises:
        CaptionerError: too long a cell, too much text, or more rows than the file says.
    """
    import pyarrow.compute as pc

    rows = text = 0
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        rows += batch.num_rows
        check_rows(rows)
        for name, column in zip(columns, batch.columns, strict=True):
            lengths = _lengths(column)
            text += pc.sum(lengths).as_py() or 0
            longest = pc.max(lengths).as_py() or 0
            if longest > MAX_CELL or text > MAX_TEXT:
                much = f"a cell of {longest:,} bytes" if longest > MAX_CELL else "too much text"
                raise CaptionerError(
                    f"rows {rows - batch.num_rows + 1} to {rows}, column {name:.40}: {much}; is it "
                    "the right file?"
                )
        yield batch


def _lengths(column: "pa.Array") -> "pa.Array":
    """Bytes of each text in a column, of lists of each text in them; nothing of other values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _lengths(column.dictionary).take(column.indices)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.binary_length(column)
    return pa.nulls(len(column), pa.int64())


@contextmanager
def parquet_errors() -> Iterator[None]:
    """Whatever Arrow finds wrong with a file, as one line for people."""
    import pyarrow as pa

    try:
        yield
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
        f"no column of {kind}; found {listed(header)}; name one of them {' or '.join(wanted)}"
    )
