"""A collection of pictures that can be searched: a folder of vectors with a manifest.

`dvc repro` writes one to data/embeddings. `captioner index` adds pictures to a copy: each time as a
part of its own, which the manifest names once it is there whole, so that a crash leaves what was.
Who changes a collection holds its lock; parts never change, so that readers need none. Matrices are
mapped, not read; their checksums are verified when a collection is opened.

    manifest.json          format, model (fingerprint of what made the vectors), dimensions, parts
                           with checksums and removed rows, checksums of captions.* and words.*
    PART/pictures.parquet  image_id, split, caption, sha256, perceptual_hash, facts, vector
    PART/pictures.npy      (pictures, size) float32: places in the space shared with sentences
    PART/looks.npy         (pictures, channels) float32: means of their grids of CNN features
    captions.*, words.*    people's captions and the vocabulary, where `dvc repro` wrote them
    .lock                  an empty file, locked by the process that changes the collection

PART is the folder itself or part-00000, part-00001 ... in it. All vectors are of length one.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from captioner import CaptionerError
from captioner.embeddings import write_vectors
from captioner.files import CHECKSUMS, atomic_folder, read_json, sha256_of, write_json

FORMAT = 1
MANIFEST = "manifest.json"
SPACES = ("meaning", "looks")
PART_FILES = ("pictures.parquet", "pictures.npy", "looks.npy")
EXTRA_FILES = ("captions.parquet", "captions.npy", "words.parquet", "words.npy")
FILES = (MANIFEST, *PART_FILES, *EXTRA_FILES)
FILES += tuple(
    f"projector/{name}" for name in ("projector_config.pbtxt", "sprite.png", "*.tsv", CHECKSUMS)
)
MARK = (MANIFEST, b'"dimensions"')
PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}  # encodings, as `images.write_table` writes Parquet
COLUMNS = ("image_id", "split", "caption", "sha256", "perceptual_hash")


@dataclass(frozen=True)
class Collection:
    """An open collection.

    Attributes:
        folder: where it lies.
        model: fingerprint of the bundle that made the vectors, see `bundle.save`.
        pictures: a row for each picture that was not removed: `COLUMNS`, then facts, all of them
            texts.
        meaning, looks: parts of the matrices, memory maps; one after the other they hold a row for
            each picture, the removed ones included.
        there: (all pictures,) bool, False for the removed ones.
        split_characters: whether Chinese and Japanese characters are words of their own, as in the
            model's vocabulary.
    """

    folder: Path
    model: str
    pictures: pd.DataFrame
    meaning: list[np.ndarray]
    looks: list[np.ndarray]
    there: np.ndarray
    split_characters: bool = False

    def cosines(self, matrices: Sequence[np.ndarray], vector: np.ndarray) -> np.ndarray:
        """(pictures,) of the rows of `meaning` or `looks` with a vector of length one."""
        found = np.concatenate([*(part @ vector for part in matrices), np.zeros(0, np.float32)])
        return found if self.there.all() else found[self.there]

    def some(self, matrices: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(rows, size) vectors of rising rows of `pictures`."""
        return rows_of(matrices, np.flatnonzero(self.there)[rows])

    def extra(self, name: str) -> tuple[pd.DataFrame, np.ndarray]:
        """People's `captions`, or the `words` of the vocabulary: columns, and vectors (n, size).

        Raises:
            CaptionerError: the collection has none.
        """
        if name not in ("captions", "words") or not (self.folder / f"{name}.npy").exists():
            raise CaptionerError(
                f"{self.folder}: this collection has no {name}; data/embeddings has them, and so "
                "has an index that was begun --from there"
            )
        matrix = _matrix(self.folder / f"{name}.npy")
        return _table(self.folder / f"{name}.parquet", len(matrix)), matrix


def open_collection(folder: Path | str) -> Collection:
    """Open a collection and verify it.

    Raises:
        CaptionerError: there is none, or it is damaged: the file is named.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    while True:
        try:
            return _open(folder, manifest)
        except CaptionerError:  # damaged, or replaced as a whole between the manifest and the files
            before, manifest = manifest, read_manifest(folder)
            if manifest == before:
                raise


@contextmanager
def locked(folder: Path, tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Change a collection alone: others wait, in this process and in others.

    A function of this module that changes a collection takes the lock itself; who holds it already
    may call them.

    Args:
        tell: is told once if another process has to be waited for.
    """
    lock = FileLock(folder / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"{folder}: waiting for another process that changes it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, manifest: Mapping[str, Any]) -> Collection:
    tables, meaning, looks, there = [], [], [], []
    for part in manifest["parts"]:
        place = folder / part["folder"]
        _verify(folder, {f"{part['folder']}/{name}": part["sha256"][name] for name in PART_FILES})
        meaning.append(_matrix(place / "pictures.npy"))
        looks.append(_matrix(place / "looks.npy"))
        tables.append(_table(place / "pictures.parquet", len(meaning[-1])))
        for name, matrix in (("pictures.npy", meaning[-1]), ("looks.npy", looks[-1])):
            size = manifest["dimensions"]["meaning" if name == "pictures.npy" else "looks"]
            if matrix.shape != (len(tables[-1]), size):
                raise _damaged(folder, f"{part['folder']}/{name} is {matrix.shape}")
        there.append(~np.isin(np.arange(len(tables[-1])), part["removed"]))
        if missing := set(COLUMNS) - set(tables[-1].columns):
            raise _damaged(folder, f"{part['folder']}/pictures.parquet lacks {min(missing)}")
    _verify(folder, manifest["words"])
    pictures = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    kept = np.concatenate([*there, np.zeros(0, bool)])
    for name, parts in (("meaning", meaning), ("looks", looks)):
        for part in parts:
            lengths = np.einsum("nd,nd->n", part, part)
            # In a picture that is all black, say, the CNN may see nothing: its looks are zeros, and
            # like no other's. Anything else, NaN above all, would be first in every list.
            seen = np.ones(len(part), bool) if name == "meaning" else lengths != 0
            if not np.allclose(lengths[seen], 1, atol=1e-3):
                raise _damaged(folder, f"vectors of {name} are not of length one")
    pictures = pictures[kept].reset_index(drop=True).fillna("")  # no fact is no text
    split = manifest.get("split_characters", False)
    return Collection(folder, manifest["model"], pictures, meaning, looks, kept, split)


def rows_of(matrices: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(rows, size) of rising rows of matrices that lie one after the other; (0, 0) of none."""
    if not matrices:
        return np.zeros((0, 0), np.float32)
    found, first = [], 0
    for matrix in matrices:
        low, high = np.searchsorted(rows, [first, first + len(matrix)])
        found.append(matrix[rows[low:high] - first])
        first += len(matrix)
    return np.concatenate(found)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked: it may come from a stranger.

    Raises:
        CaptionerError: there is none, or it is damaged.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise CaptionerError(
            f"{folder}: no collection here (manifest.json); `dvc repro export` writes "
            "data/embeddings, `captioner index add FOLDER --index DIR` another"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"manifest.json: {error}") from None
    try:
        if manifest["format"] != FORMAT:
            raise CaptionerError(
                f"{folder}: collection of format {manifest['format']!r:.40}, expected {FORMAT}; "
                "write it anew with `dvc repro export`"
            )
        hashes = [part["sha256"][name] for part in manifest["parts"] for name in PART_FILES]
        hashes += [manifest["words"][name] for name in manifest["words"]]
        sound = isinstance(manifest["parts"], list) and isinstance(manifest["words"], dict)
        sound &= all(re.fullmatch(r"\.|part-\d{5}", part["folder"]) for part in manifest["parts"])
        sound &= all(re.fullmatch("[0-9a-f]{64}", text) for text in [manifest["model"], *hashes])
        sound &= set(manifest["words"]) <= set(EXTRA_FILES)
        sound &= all(type(manifest["dimensions"][name]) is int for name in ("meaning", "looks"))
        rows = [row for part in manifest["parts"] for row in part["removed"]]
        sound &= all(type(row) is int and 0 <= row < 2**31 for row in rows)
        sound &= len({part["folder"] for part in manifest["parts"]}) == len(manifest["parts"])
        sound &= type(manifest.get("split_characters", False)) is bool
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(folder, f"manifest.json: {type(error).__name__} {error}") from None
    if not sound:
        raise _damaged(folder, "manifest.json holds what no collection has")
    return manifest


def write_part(
    folder: Path, columns: Mapping[str, Sequence], meaning: np.ndarray, looks: np.ndarray
) -> dict[str, Any]:
    """Write pictures.parquet, pictures.npy and looks.npy into an existing folder.

    Args:
        columns: `COLUMNS`, then facts, each (pictures,).
        meaning, looks: (pictures, size), of length one.

    Returns:
        what the manifest says of the part, but for its folder's name.
    """
    write_vectors(folder, "pictures", dict(columns), meaning)
    np.save(folder / "looks.npy", np.ascontiguousarray(looks, np.float32))
    sums = {name: sha256_of(folder / name) for name in PART_FILES}
    return {"pictures": len(meaning), "removed": [], "sha256": sums}


def write_manifest(
    folder: Path,
    model: str,
    dimensions: Mapping[str, int],
    parts: Sequence[Mapping[str, Any]],
    split_characters: bool = False,
) -> None:
    """Write the manifest of what lies in a folder, whole or not at all; see `Collection`."""
    extra = [name for name in EXTRA_FILES if (folder / name).exists()]
    counts = {"pictures": sum(part["pictures"] - len(part["removed"]) for part in parts)}
    for name in ("captions", "words"):
        if f"{name}.parquet" in extra:
            counts[name] = pq.read_metadata(folder / f"{name}.parquet").num_rows
    content = {
        "format": FORMAT,
        "model": model,
        "dimensions": dict(dimensions),
        "counts": counts,
        "parts": list(parts),
        "split_characters": split_characters,
        "words": {name: sha256_of(folder / name) for name in extra},
    }
    write_json(folder / MANIFEST, content)


def begin(
    folder: Path,
    source: Path | None,
    model: str,
    dimensions: Mapping[str, int],
    split_characters: bool = False,
) -> None:
    """Make a new collection: empty, or a copy of another one; whole or not at all.

    Raises:
        CaptionerError: there is something in the way.
    """
    with atomic_folder(folder) as new:
        if source is None:
            write_manifest(new, model, dimensions, [], split_characters)
            return
        manifest = read_manifest(source)
        for part in manifest["parts"]:
            (new / part["folder"]).mkdir(exist_ok=True)
            for name in PART_FILES:
                shutil.copyfile(source / part["folder"] / name, new / part["folder"] / name)
        for name in manifest["words"]:
            shutil.copyfile(source / name, new / name)
        write_json(new / MANIFEST, manifest)


def add_part(
    folder: Path, columns: Mapping[str, Sequence], meaning: np.ndarray, looks: np.ndarray
) -> None:
    """Add pictures to a collection; until the manifest is replaced, nothing has changed."""
    with locked(folder):
        manifest = read_manifest(folder)
        taken = [part["folder"] for part in manifest["parts"]]
        name = next(name for n in range(len(taken) + 1) if (name := f"part-{n:05d}") not in taken)
        with atomic_folder(folder / name, PART_FILES) as new:  # or in the place of a crash's
            entry = {"folder": name} | write_part(new, columns, meaning, looks)
        _replace(folder, manifest, [*manifest["parts"], entry])


def remove(folder: Path, image_ids: Sequence[str]) -> None:
    """Take pictures out of a collection; their vectors stay in the files, unseen."""
    with locked(folder):
        manifest = read_manifest(folder)
        parts = []
        for part in manifest["parts"]:
            ids = _table(folder / part["folder"] / "pictures.parquet")["image_id"]
            rows = np.flatnonzero(ids.isin(list(image_ids))).tolist()
            parts.append(part | {"removed": sorted({*part["removed"], *rows})})
        _replace(folder, manifest, parts)


def known(folder: Path) -> dict[str, set[str]]:
    """The "sha256" and "image_id" of all pictures that were not removed; vectors are not read.

    Raises:
        CaptionerError: there is no collection, or it is damaged.
    """
    found: dict[str, set[str]] = {"sha256": set(), "image_id": set()}
    for part in read_manifest(folder)["parts"]:
        table = _table(folder / part["folder"] / "pictures.parquet").drop(part["removed"])
        for name, values in found.items():
            values.update(table[name])
    return found


def _replace(folder: Path, manifest: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    left = sum(part["pictures"] - len(part["removed"]) for part in parts)
    counts = manifest["counts"] | {"pictures": left}
    write_json(folder / MANIFEST, manifest | {"parts": parts, "counts": counts})


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        try:
            found = sha256_of(folder / name)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise _damaged(folder, f"{name}: {reason}") from None
        if found != expected:
            raise _damaged(folder, f"{name} is not what the manifest says")


def _table(path: Path, rows: int | None = None) -> pd.DataFrame:
    """All columns but the vectors; CaptionerError for other than `rows` rows."""
    try:
        known = pq.read_metadata(path)
        if rows not in (None, known.num_rows):
            raise _damaged(path.parent, f"{path.name} has {known.num_rows} rows, not {rows}")
        groups = map(known.row_group, range(known.num_row_groups))
        chunks = [group.column(n) for group in groups for n in range(known.num_columns)]
        # Else a few bytes may stand for any number of texts.
        if any(c.compression != "UNCOMPRESSED" or set(c.encodings) - PLAIN for c in chunks):
            raise _damaged(path.parent, f"{path.name} is packed, which no collection is")
        names = [name for name in known.schema.to_arrow_schema().names if name != "vector"]
        return pq.read_table(path, columns=names).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path.parent, f"{path.name}: {' '.join(str(error).split())[:120]}") from None


def _matrix(path: Path) -> np.ndarray:
    try:
        matrix = np.lib.format.open_memmap(path, mode="r")  # no zip, no pickle
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise _damaged(path.parent, f"{path.name}: {' '.join(str(error).split())[:120]}") from None
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise _damaged(path.parent, f"{path.name} is no matrix of float32")
    return matrix


def _damaged(folder: Path, what: str) -> CaptionerError:
    return CaptionerError(
        f"{folder}: damaged collection ({what:.200}); write it anew: `dvc repro --force export` "
        "for data/embeddings, `captioner index add` into a new --index otherwise"
    )
