"""Search in very many pictures: faiss proposes candidates, which are then compared exactly.

Beyond some 200,000 pictures comparing all of them takes most of a second. An inverted file (Jegou
et al. 2011) parts the vectors into cells and looks only into those nearest to the query; in memory
each number takes a byte. What it proposes is compared by the collection's own vectors, so that the
scores are exact, and a picture can only be missing. How many of the true ten nearest are found is
measured as the index is built, on pictures that are left out of it until then, and must be 95%.

    COLLECTION/approximate/
        meaning.faiss, looks.faiss   the inverted files
        meaning.npy, looks.npy       (size + 1, size) float64: means of the vectors, second moments
        index.json                   rows, effort, recall, checksums of these files and of the parts

Pictures that were added since are all compared; removed ones are passed over.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioner import CaptionerError
from captioner.collection import (
    MANIFEST,
    SPACES,
    Collection,
    locked,
    open_collection,
    read_manifest,
    rows_of,
)
from captioner.files import atomic_folder, check_replaceable, digest, read_json, write_json

if TYPE_CHECKING:
    import faiss

FOLDER, FORMAT = "approximate", 1
FILES = ("index.json", *(f"{space}.{kind}" for space in SPACES for kind in ("faiss", "npy")))
MARK = ("index.json", b'"effort"')
FROM = 200_000  # pictures; fewer are compared one by one
LEAST = 1000  # pictures that an index is built of
EFFORTS = (256, 1024, 4096)  # candidates of each space, tried in this order
RECALL, NEAREST = 0.95, 10
HELD = 200  # queries that measure what is found
ROUNDS, A_CELL = 10, 64  # of k-means, and vectors a cell that it sees
BLOCK = 8192  # rows that are read at once
SEED = 1234
INSTALL = 'pip install -c constraints.txt -e ".[faiss]"'

Progress = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True)
class Approximate:
    """An index of the first rows of a collection.

    Attributes:
        indexes: for "meaning" and "looks".
        moments: for each the mean (size,) of the vectors and their second moments (size, size).
        rows: how many of the collection's rows it holds, the removed ones included.
        effort: candidates of each space.
        recall: share of the true ten nearest that were found, by meaning, by looks and by both.
    """

    indexes: Mapping[str, "faiss.Index"]
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]]
    rows: int
    effort: int
    recall: Mapping[str, float]

    def candidates(self, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows of the collection, the removed ones included, that may be near, rising.

        Args:
            vectors: of the query, (size,) in each space that counts.
        """
        found = [
            _propose(self.indexes[space], vector[None], self.effort)[0]
            for space, vector in vectors.items()
        ]
        return np.unique(np.concatenate(found))

    def spread(self, space: str, vector: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of the cosines of a vector with all that are indexed."""
        mean, second = self.moments[space]
        exact = vector.astype(np.float64)
        middle = float(mean @ exact)
        return middle, math.sqrt(max(float(exact @ second @ exact) - middle**2, 0.0))


def open_index(collection: Collection, tell: Callable[[str], None]) -> Approximate | None:
    """The collection's index; None where it has none or it cannot be used.

    Args:
        tell: hears what would make the search faster.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    place = collection.folder / FOLDER
    command = f"`captioner index build --index {collection.folder}`"
    if not (place / "index.json").exists():
        if len(collection.pictures) > FROM:
            count = f"{len(collection.pictures):,} pictures are compared one by one"
            tell(f"{count}; {command} makes that faster")
        return None
    if find_spec("faiss") is None:
        tell(f"faiss is not installed, so all pictures are compared one by one; {INSTALL}")
        return None
    import faiss

    known = None
    try:
        known = read_json(place / "index.json")
        if known["format"] != FORMAT:
            raise ValueError(f"format {known['format']!r:.20}")
        for name in (f"{space}.{kind}" for space in SPACES for kind in ("faiss", "npy")):
            if digest(place / name) != known["sha256"][name]:  # faiss believes what it reads
                raise ValueError(f"{name} is not what index.json says")
        parts = [part["sha256"] for part in read_json(collection.folder / MANIFEST)["parts"]]
        if parts[: len(known["parts"])] != known["parts"]:
            raise ValueError("it is of other pictures")
        indexes, moments = {}, {}
        for space, matrices in zip(SPACES, (collection.meaning, collection.looks), strict=True):
            indexes[space] = faiss.read_index(str(place / f"{space}.faiss"))
            mean, *second = np.load(place / f"{space}.npy", allow_pickle=False)
            moments[space] = mean, np.stack(second)
            size = matrices[0].shape[1]
            if (indexes[space].d, indexes[space].ntotal) != (size, known["rows"]):
                raise ValueError(f"{space}.faiss is of other pictures")
        return Approximate(indexes, moments, known["rows"], known["effort"], known["recall"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        if _replaced(place, known):
            return open_index(collection, tell)
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{place}: unusable index ({reason}); write it anew: {command}"
        ) from None


def build(folder: Path, progress: Progress = lambda steps, _: steps) -> dict[str, float]:
    """Build the index of a collection, in the place of an older one, whole or not at all.

    Args:
        progress: wraps each loop; it gets the loop's name.

    Returns:
        the recall by meaning, by looks and by their equal blend.

    Raises:
        CaptionerError: faiss is missing, there are too few pictures, or too few of the nearest are
            found with the largest effort.
    """
    if find_spec("faiss") is None:
        raise CaptionerError(f"faiss is not installed: {INSTALL}")
    import faiss

    check_replaceable(folder / FOLDER, FILES, MARK)
    collection = open_collection(folder)
    known = read_manifest(folder)["parts"][: len(collection.meaning)]  # others may be added now
    parts, rows = [part["sha256"] for part in known], len(collection.there)
    if rows < LEAST:
        raise CaptionerError(
            f"{folder}: {rows} pictures, an index takes {LEAST} or more; fewer are compared one by "
            "one in no time"
        )
    spaces = dict(zip(SPACES, (collection.meaning, collection.looks), strict=True))
    held = np.linspace(0, rows - 1, HELD).astype(int)
    others = np.setdiff1d(np.arange(rows), held)
    indexes = {}
    for space, matrices in spaces.items():
        indexes[space] = _trained(rows_of(matrices, others[_spread(len(others))]), space, progress)
        for start in progress(range(0, len(others), BLOCK), f"{space}: vectors"):
            block = others[start : start + BLOCK]
            indexes[space].add_with_ids(rows_of(matrices, block), block)
    queries = {space: rows_of(matrices, held) for space, matrices in spaces.items()}
    effort, recall = _sufficient(
        folder, indexes, queries, _nearest(spaces, queries, held, progress)
    )
    with locked(folder), atomic_folder(folder / FOLDER, FILES, MARK) as new:
        for space, matrices in spaces.items():
            indexes[space].add_with_ids(queries[space], held)
            faiss.write_index(indexes[space], str(new / f"{space}.faiss"))
            np.save(new / f"{space}.npy", _moments(matrices))
        sums = {path.name: digest(path) for path in sorted(new.iterdir())}
        content = {"format": FORMAT, "rows": rows, "effort": effort, "recall": recall}
        write_json(new / "index.json", content | {"sha256": sums, "parts": parts})
    return recall


def _replaced(place: Path, known: object) -> bool:
    """Whether another process has built the index anew since `known` was read."""
    try:
        return known is not None and read_json(place / "index.json") != known
    except (OSError, ValueError, RecursionError):
        return False


def _cells(rows: int) -> int:
    return max(1, min(round(4 * math.sqrt(rows)), rows // A_CELL))


def _spread(rows: int) -> np.ndarray:
    """Evenly spread rows that the cells are found from."""
    return np.unique(np.linspace(0, rows - 1, min(rows, A_CELL * _cells(rows))).astype(int))


def _trained(vectors: np.ndarray, space: str, progress: Progress) -> "faiss.Index":
    """An empty index, with cells found by spherical k-means."""
    import faiss

    size, cells = vectors.shape[1], len(vectors) // A_CELL
    centres = None
    for _ in progress(range(ROUNDS), f"{space}: cells"):
        means = faiss.Kmeans(
            size,
            max(1, cells),
            niter=1,
            seed=SEED,
            spherical=True,
            max_points_per_centroid=2 * A_CELL,
        )
        means.train(vectors, init_centroids=centres)
        centres = means.centroids
    quantizer = faiss.IndexFlatIP(size)
    quantizer.add(centres)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer,
        size,
        len(centres),
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.train(vectors)
    index.own_fields = True
    quantizer.this.disown()
    return index


def _propose(index: "faiss.Index", queries: np.ndarray, effort: int) -> np.ndarray:
    """(queries, effort at most) rows; where fewer are found, the first is repeated."""
    # Of many cells a share from 1/32 on; of few cells, more.
    index.nprobe = min(index.nlist, max(1, effort // 32 + index.nlist * effort // 8192))
    _, found = index.search(np.ascontiguousarray(queries, np.float32), min(effort, index.ntotal))
    return np.where(found < 0, found[:, :1], found)


def _sufficient(
    folder: Path,
    indexes: Mapping[str, "faiss.Index"],
    queries: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> tuple[int, dict[str, float]]:
    """The least effort that finds enough, and the recall of it."""
    for effort in EFFORTS:
        proposed = {space: _propose(indexes[space], queries[space], effort) for space in SPACES}
        proposed["both"] = np.hstack([proposed[space] for space in SPACES])
        recall = {
            name: float(
                np.mean([np.isin(*pair) for pair in zip(rows, proposed[name], strict=True)])
            )
            for name, rows in truth.items()
        }
        if min(recall.values()) >= RECALL:
            return effort, recall
    shown = ", ".join(f"{name} {value:.3f}" for name, value in recall.items())
    raise CaptionerError(
        f"{folder}: no index was written: even among {effort} candidates too few of the true "
        f"{NEAREST} nearest pictures are found (recall {shown}; {RECALL} is wanted); without it "
        "all pictures are compared"
    )


def _nearest(
    spaces: Mapping[str, list[np.ndarray]],
    queries: Mapping[str, np.ndarray],
    held: np.ndarray,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """(held, NEAREST) exactly nearest rows of others by meaning, by looks, and by both."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*SPACES, "both")}
    for start in progress(range(0, len(held), 20), "true neighbours"):
        both = 0
        for space, matrices in spaces.items():
            some = queries[space][start : start + 20].T
            cosines = np.concatenate([part @ some for part in matrices])
            cosines[held] = -2  # queries are not in the index yet
            found[space].append(np.argpartition(-cosines, NEAREST, axis=0)[:NEAREST].T)
            cosines[held] = np.nan
            both += (cosines - np.nanmean(cosines, 0)) / np.nanstd(cosines, 0)
        both[held] = -np.inf
        found["both"].append(np.argpartition(-both, NEAREST, axis=0)[:NEAREST].T)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _moments(matrices: list[np.ndarray]) -> np.ndarray:
    size, rows = matrices[0].shape[1], sum(map(len, matrices))
    sums = np.zeros((size + 1, size))
    for matrix in matrices:
        for start in range(0, len(matrix), BLOCK):
            block = np.asarray(matrix[start : start + BLOCK], np.float64)
            sums[0] += block.sum(0)
            sums[1:] += block.T @ block
    return sums / rows
