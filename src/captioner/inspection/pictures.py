"""What a data set's pictures are like: formats, sizes, extra columns, copies within a split."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from captioner.datasets import SPLITS, Picture, Rejected
from captioner.leaks import LOOKS_SAME, SAME_BYTES, Leak, nearest_lookalikes
from captioner.raster import Fit

# How a file of each of `captioner.raster.FORMATS` begins.
BEGINNINGS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II": "TIFF",
    b"MM": "TIFF",
}
ELONGATED = 2  # times as long as wide, or wide as long: a square of it is another picture
FIRST = 5  # names, or values of a column, in the report


@dataclass(frozen=True, order=True)
class Copy:
    """A picture that is also an earlier one of the same split."""

    kind: str
    split: str
    image_id: str
    other_image_id: str


def counted(
    pictures: Iterable[Picture | Rejected], formats: Counter[str]
) -> Iterator[Picture | Rejected]:
    """Pass everything on; count the formats of the pictures on the way."""
    for item in pictures:
        if isinstance(item, Picture):
            begins = (BEGINNINGS[start] for start in BEGINNINGS if item.data.startswith(start))
            formats[next(begins, "other")] += 1
        yield item


def sizes(index: pd.DataFrame, size: int, fit: Fit) -> dict | None:
    """How large the pictures came, and how many suffer from becoming squares of `size` pixels.

    Args:
        index: original_width and original_height in pixels, and image_id.
        size, fit: as for `captioner.raster.prepare`.

    Returns:
        [width, height] of the smallest, the median and the largest by area; of the pictures that
        are `enlarged`, by more than two (`enlarged_twice`), or longer than two to one
        (`elongated`), the number and the first image_ids. None where there are no pictures.
    """
    if index.empty:
        return None
    both = index[["original_width", "original_height"]].to_numpy(np.int64)
    order = np.argsort(both.prod(1), kind="stable")
    middle = (len(order) - 1) // 2
    chosen = {"smallest": order[0], "median": order[middle], "largest": order[-1]}
    shorter, longer = both.min(1), both.max(1)
    side = longer if fit == "pad" else shorter
    few = {
        "enlarged": side < size,
        "enlarged_twice": 2 * side < size,
        "elongated": longer > ELONGATED * shorter,
    }
    names = index["image_id"].to_numpy()
    return {name: both[row].tolist() for name, row in chosen.items()} | {
        name: {"number": int(which.sum()), "first": names[which][:FIRST].tolist()}
        for name, which in few.items()
    }


def columns(facts: Iterable[str | None]) -> dict[str, dict]:
    """The facts of pictures (JSON objects): for each key how many pictures have it, its values.

    Returns:
        For each key the number of `pictures` that have it, the number of different `values`, and
        the `most_frequent` as [value, pictures]; of lists and objects none.
    """
    values: dict[str, Counter[str]] = {}
    nested = set()
    for text in facts:
        for key, value in (json.loads(text) if text else {}).items():
            if value in (None, ""):
                continue
            if isinstance(value, dict | list):
                nested.add(key)
            shown = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            values.setdefault(key, Counter())[shown] += 1
    return {
        key: {
            "pictures": counter.total(),
            "values": len(counter),
            "most_frequent": []
            if key in nested
            else [list(pair) for pair in counter.most_common(FIRST)],
        }
        for key, counter in values.items()
    }


def find_copies(index: pd.DataFrame) -> list[Copy]:
    """Pictures that have the bytes of an earlier one of their split, or look the same.

    Args:
        index: in the order of the pictures, with the columns of `captioner.leaks.COLUMNS`.

    Returns:
        For each picture at most one copy, of the first that has its bytes, else of an early one
        that looks the same; same bytes first, then by split and image_id.
    """
    copies = []
    for split in SPLITS:
        part = index[index["split"] == split]
        firsts: dict[str, str] = {}
        for image_id, sha256 in zip(part["image_id"], part["sha256"], strict=True):
            if (first := firsts.setdefault(sha256, image_id)) != image_id:
                copies.append(Copy(SAME_BYTES, split, image_id, first))
        part = part.drop_duplicates("sha256")
        names = part["image_id"].to_numpy()
        earlier = _earlier(part["perceptual_hash"].tolist())
        for row in np.flatnonzero(earlier >= 0):
            copies.append(Copy(LOOKS_SAME, split, names[row], names[earlier[row]]))
    return sorted(copies, key=lambda copy: (copy.kind != SAME_BYTES, copy))


def _earlier(hashes: Sequence[str]) -> np.ndarray:
    """(n,) int: for each hash the position of an earlier one that looks the same, else -1.

    The second half is compared with the first, and each half within itself in the same way, so
    that any two meet exactly once and none meets itself.
    """
    found = np.full(len(hashes), -1)

    def compare(start: int, stop: int) -> None:
        if stop - start < 2:
            return
        middle = (start + stop) // 2
        compare(start, middle)
        compare(middle, stop)
        nearest = nearest_lookalikes(hashes[middle:stop], hashes[start:middle])
        rows = np.flatnonzero(nearest >= 0)
        found[middle + rows] = start + nearest[rows]

    compare(0, len(hashes))
    return found


def copy_kinds(found: Iterable[Copy | Leak]) -> dict[str, int]:
    """How many have the same bytes, how many only look the same."""
    kinds = Counter(item.kind for item in found)
    return {kind: kinds[kind] for kind in (SAME_BYTES, LOOKS_SAME)}
