"""Captions in tables: CSV, whose header says what is where and what separates it, and Parquet."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from captioner import CaptionerError
from captioner.caption_files.records import PICTURE_NAMES, Record, listed

_WHOLE = re.compile(r"-?\d+\.0")
_LIST_AS_TEXT = re.compile(r"\s*\[\s*(['\"]).*['\"]\s*\]\s*", re.DOTALL)


def table_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    header, rows = csv_rows(text, lambda header: None not in _columns(header, names))
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
    text: str, fits: Callable[[list[str]], bool]
) -> tuple[list[str], Iterator[tuple[str, list[str]]] | None]:
    """The header and the rows, each with its place, by the first delimiter whose header `fits`.

    Where none fits: None for the rows, and the longest header, for the message.
    """
    headers = []
    for delimiter in ",;\t":  # the header decides: captions hold commas and semicolons of their own
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
        except csv.Error:
            continue
        headers.append(header)
        if fits(header):
            return header, _rows_below(rows, header)
    return max(headers, key=len, default=[]), None


def _rows_below(rows: "csv._reader", header: list[str]) -> Iterator[tuple[str, list[str]]]:
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
            yield where, row
    except csv.Error as error:  # often a quote that is never closed: name the line that opened it
        raise CaptionerError(f"line {line}: no proper CSV ({error}); look at its quotes") from None


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parquet_errors():
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
