"""What `rows` reads, format by format: a header, and for each row its place and its cells by name.

A cell is a text, a `Number`, true or false, None where there is none, or a list or an object.
Sources: cocodataset.org, "Data format"; Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments"
(CVPR 2015), the files `dataset_*.json`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.caption_files.json_files import (
    coco_annotations,
    is_coco,
    is_karpathy,
    karpathy_images,
)
from captioner.caption_files.json_text import json_values
from captioner.caption_files.records import REFERENCE_NAMES, Number, kind
from captioner.caption_files.tables import (
    csv_rows,
    open_parquet,
    parquet_batches,
    parquet_errors,
    refuse_list_as_text,
    whole_numbers,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# JSON may write halves of characters (\\ud83d), of which two make one; no UTF-8 can hold one alone.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")

Cells = tuple[str, dict[str, object]]


def csv_cells(
    text: str, choose: Callable[[list[str]], tuple[str, str] | None]
) -> tuple[list[str], Iterable[Cells]]:
    """`choose` names the columns of pictures and captions in a header; None where it has none, and
    is perhaps the header of another delimiter."""

    def picture_column(header: list[str]) -> int | None:
        header = _stripped(header)
        chosen = choose(header)
        return None if chosen is None else header.index(chosen[0])

    header, rows = csv_rows(text, picture_column)
    header = _stripped(header)
    if rows is None:
        return header, ()
    picture, caption = choose(header)
    # Nothing between two commas is how pandas writes a gap.
    found = [
        (where, {name: cell or None for name, cell in zip(header, row, strict=True)})
        for where, row in rows
    ]
    names = whole_numbers([cells[picture] or "" for _, cells in found])
    for name, (where, cells) in zip(names, found, strict=True):
        refuse_list_as_text(where, name, cells[caption] or "")
        cells[picture] = name
    return header, found


def _stripped(header: Sequence[str]) -> list[str]:
    return [name.strip() for name in header]


def parquet_cells(data: bytes) -> tuple[list[str], Iterable[Cells]]:
    with parquet_errors():
        file = open_parquet(data)
        columns = [field.name for field in file.schema_arrow if _is_readable(field.type)]
    return _stripped(columns), _parquet_rows(file, columns)


def _parquet_rows(file: "pq.ParquetFile", columns: list[str]) -> Iterator[Cells]:
    header, row = _stripped(columns), 0
    with parquet_errors():
        for batch in parquet_batches(file, columns):
            values = [_values(batch.column(name)) for name in columns]
            for cells in zip(*values, strict=True):
                row += 1
                yield f"row {row}", dict(zip(header, cells, strict=True))


def _is_readable(of: "pa.DataType") -> bool:
    """Single values and lists of texts; no bytes: they may be pictures, and stay unread."""
    import pyarrow as pa

    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return pa.types.is_string(of.value_type) or pa.types.is_large_string(of.value_type)
    value = of.value_type if pa.types.is_dictionary(of) else of
    if "binary" in str(value):
        return False
    try:
        pa.nulls(0, of).cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _values(column: "pa.Array") -> list:
    import pyarrow as pa

    of = column.type
    if pa.types.is_boolean(of) or pa.types.is_list(of) or pa.types.is_large_list(of):
        return column.to_pylist()
    texts = column.cast(pa.string()).to_pylist()
    if pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of):
        return [None if text in (None, "nan") else Number(text) for text in texts]
    return texts


def json_cells(text: str, captions: Sequence[str]) -> tuple[list[str], Iterable[Cells]]:
    """`captions` are the names under which COCO's annotations may hold a caption."""
    found: list[Cells] = []
    halves = _HALF.search(text)
    for where, value in json_values(text, Number):
        records = _document(value, captions) if where is None else [(where, value)]
        for place, cells in records:
            if not isinstance(cells, dict):
                raise CaptionerError(f"{place}: {kind(cells)}; expected an object with a caption")
            if halves:
                _check_characters(place, cells)
            found.append((place, cells))
    header = dict.fromkeys(name for _, cells in found for name in cells)
    return list(header), found


def _document(document: object, captions: Sequence[str]) -> Iterator[tuple[str, object]]:
    if isinstance(document, list):
        yield from ((f"entry {n}", value) for n, value in enumerate(document, start=1))
    elif isinstance(document, dict) and is_karpathy(document):
        for where, image, sentences in karpathy_images(document):
            name, folder = image.get("filename"), image.get("filepath")
            if isinstance(name, str) and isinstance(folder, str) and folder:
                name = f"{folder.rstrip('/')}/{name}"
            others = _without(image, {"filename", "filepath", "sentences", *REFERENCE_NAMES})
            yield where, {"filename": name, **others, "captions": sentences}
    elif isinstance(document, dict) and is_coco(document) and document.get("images"):
        yield from _coco(document, captions)
    elif isinstance(document, dict) and is_coco(document):
        annotations = coco_annotations(document)
        yield from ((f"annotation {n}", value) for n, value in enumerate(annotations, start=1))
    else:  # JSON lines of one line
        yield "entry 1", document


def _coco(document: dict, captions: Sequence[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """For each annotation what is said of its image, and its caption."""
    images: dict[str, dict] = {}
    if not isinstance(document["images"], list):
        raise CaptionerError(f'"images" is {kind(document["images"])} and no list')
    for number, image in enumerate(document["images"], start=1):
        if not isinstance(image, dict):
            raise CaptionerError(f"image {number}: {kind(image)} and no object")
        image_id = str(image.get("id"))
        if image_id in images:
            raise CaptionerError(f"image {number}: the id {image_id:.80} stands twice")
        images[image_id] = _without(image, {"image_id", *REFERENCE_NAMES})
    for number, annotation in enumerate(coco_annotations(document), start=1):
        if not isinstance(annotation, dict):
            raise CaptionerError(f"annotation {number}: {kind(annotation)} and no object")
        caption = next((name for name in captions if name in annotation), captions[0])
        image = images.get(str(annotation.get("image_id")), {})
        yield f"annotation {number}", image | {caption: annotation.get(caption)}


def _without(cells: dict, names: set[str]) -> dict[str, object]:
    return {name: value for name, value in cells.items() if name not in names}


def _check_characters(where: str, cells: dict) -> None:
    try:
        json.dumps(cells, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise CaptionerError(f"{where}: half a character ({half}); write all of it") from None
