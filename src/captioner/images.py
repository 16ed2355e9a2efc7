"""The pictures of a data set in Parquet shards: write them, read them back, decode them in batches.

`write_shards` prepares the pictures (see `raster`) with a bounded pool of threads: Pillow releases
the interpreter lock while it decodes, resizes and encodes. `read_pictures` and `batches` read the
shards; nothing later in the pipeline opens any other picture. Everything keeps its order, memory
holds a part only, and the same pictures give the same bytes.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from captioner import CaptionerError
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.files import atomic_file, atomic_folder
from captioner.raster import Fit, PictureError, decode, perceptual_hashes, prepare

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARD_SIZE = 1000  # pictures a file
ROW_GROUP = 100  # pictures that a reader has in memory at once
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("jpeg", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("perceptual_hash", pa.string()),
        ("facts", pa.string()),
    ]
)
CAPTION_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("picture", pa.int32()),
        ("caption_id", pa.int32()),
        ("caption", pa.string()),
    ]
)


def write_shards(
    pictures: Iterable[Picture | Rejected],
    folder: Path | str,
    *,
    size: int,
    fit: Fit,
    jpeg_quality: int,
    max_pixels: int,
    workers: int | None = None,
) -> tuple[pa.Table, list[Rejected], dict[str, int]]:
    """Prepare all pictures and write them as `folder`/part-00000.parquet, part-00001.parquet ...

    The folder appears when all is written, and replaces an older one. Memory holds one shard and a
    few pictures for each worker, however many pictures there are.

    Args:
        pictures: all of train, then all of val, then all of test. What the reader or `prepare`
            rejects is left out and listed.
        size, fit, jpeg_quality, max_pixels: as for `prepare`.
        workers: threads; default: one for each core.

    Returns:
        The captions, one row for each caption of each stored picture (`CAPTION_SCHEMA`); the
        rejected; and counts: pictures_train, pictures_val, pictures_test, captions,
        rejected_pictures, rejected_captions. A `Rejected` whose reason begins with the word
        "caption" counts as a caption, any other as a picture.

    Raises:
        ValueError: the pictures come in another order of splits.
    """

    def prepare_one(item: Picture | Rejected) -> tuple[Picture | Rejected, dict | None]:
        if isinstance(item, Rejected):
            return item, None
        try:
            prepared = prepare(item.data, size, fit, jpeg_quality, max_pixels)
        except PictureError as error:
            return Rejected(item.image_id, error.reason, error.detail), None
        facts = None if item.facts is None else json.dumps(item.facts, sort_keys=True)
        row = {
            "image_id": item.image_id,
            "split": item.split,
            **vars(prepared),
            "sha256": hashlib.sha256(item.data).hexdigest(),
            "facts": facts,
        }
        return item, row

    rows: list[dict] = []
    captions: dict[str, list] = {name: [] for name in CAPTION_SCHEMA.names}
    rejected: list[Rejected] = []
    splits: dict[str, str] = {}  # image_id -> split, in the order of the pictures
    shards = 0
    with atomic_folder(folder, ["part-*.parquet"]) as temporary:
        for item, row in _in_order(prepare_one, pictures, workers):
            if row is not None and item.image_id in splits:
                first = splits[item.image_id]
                item, row = Rejected(item.image_id, "picture repeated", f"already in {first}"), None
            if row is None:
                rejected.append(item)
                continue
            if splits and SPLITS.index(item.split) < SPLITS.index(next(reversed(splits.values()))):
                raise ValueError(f"{item.image_id}: {item.split} after a later split")
            for number, caption in enumerate(item.captions):
                values = (item.image_id, item.split, len(splits), number, caption)
                for column, value in zip(captions.values(), values, strict=True):
                    column.append(value)
            splits[item.image_id] = item.split
            rows.append(row)
            if len(rows) == SHARD_SIZE:
                _write_shard(rows, temporary, shards)
                rows, shards = [], shards + 1
        if rows:
            _write_shard(rows, temporary, shards)
    held = list(splits.values())
    counts = {f"pictures_{split}": held.count(split) for split in SPLITS}
    counts["captions"] = len(captions["caption"])
    counts["rejected_captions"] = sum(r.reason.split()[0] == "caption" for r in rejected)
    counts["rejected_pictures"] = len(rejected) - counts["rejected_captions"]
    return pa.table(captions, schema=CAPTION_SCHEMA), rejected, counts


def _write_shard(rows: list[dict], folder: Path, number: int) -> None:
    hashes = perceptual_hashes(np.stack([row.pop("thumbnail") for row in rows]))
    rows = [row | {"perceptual_hash": text} for row, text in zip(rows, hashes, strict=True)]
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"part-{number:05d}.parquet")


def write_table(table: pa.Table, path: Path | str) -> None:
    """Write Parquet whose bytes depend on nothing but `table` (and the version of Arrow)."""
    # JPEGs do not compress further, and statistics of them are dead weight
    with atomic_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP if "jpeg" in table.column_names else 65536,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )


def read_pictures(folder: Path | str, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of all pictures; the index is the picture number."""
    tables = [pq.read_table(path, columns=list(columns)) for path in _shards(folder)]
    return pa.concat_tables(tables).to_pandas()


def batches(
    folder: Path | str, batch_size: int, workers: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode all pictures in order, with one thread for each core.

    Yields:
        The picture number of the batch's first row, and the pictures: (n, size, size, 3) uint8,
        n = `batch_size` but for the last batch. Each batch is a new array.
    """
    first, batch = 0, []
    for pixels in _in_order(decode, jpegs(folder), workers):
        batch.append(pixels)
        if len(batch) == batch_size:
            yield first, np.stack(batch)
            first, batch = first + len(batch), []
    if batch:
        yield first, np.stack(batch)


def jpegs(folder: Path | str) -> Iterator[bytes]:
    """The stored pictures in order, still encoded, a few in memory at a time."""
    for path in _shards(folder):
        with pq.ParquetFile(path) as file:
            for group in file.iter_batches(ROW_GROUP, columns=["jpeg"]):
                yield from group.column(0).to_pylist()


def _shards(folder: Path | str) -> list[Path]:
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not paths:
        raise CaptionerError(f"{folder}: no pictures (part-*.parquet); run the stage preprocess")
    return paths


def _cores() -> int:
    """Cores that this process may use: fewer than the machine has, in a container or a job."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        return os.cpu_count() or 1


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None
) -> Iterator[Result]:
    """`map` over a pool of threads: results in order, and never more than a few items under way."""
    workers = workers or _cores()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 16 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # after an error, or when the reader of this iterator has had enough
            for future in pending:
                future.cancel()
