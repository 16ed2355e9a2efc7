"""Write files and folders whole or not at all: write beside, flush to disk, then rename.

A reader never sees half a file, whatever kills the writer. JSON is written with sorted keys and no
time stamps, so that equal content means equal bytes (DVC compares bytes).
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from captioner import CaptionerError

CHECKSUMS = "checksums.json"
MOST_JSON = 2**25  # bytes; lists in lists take 25 times as much memory


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, since some libraries choose the format by it.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; put it in the place of `path` on success.

    Folders cannot be swapped in one step: a kill between the two renames leaves none at `path`.
    """
    path = Path(path)
    temporary = _temporary(path)
    temporary.mkdir()
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    finally:
        _remove(temporary)
        if old.exists() and not path.exists():  # interrupted between the renames
            old.replace(path)
        _remove(old)


def _temporary(path: Path) -> Path:
    """A free name beside `path`; what killed processes left there under such names is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = re.compile(r"\.partial-(\d{1,9})-" + re.escape(path.name) + r"(\.old)?")
    for left in list(path.parent.iterdir()):
        match = ours.fullmatch(left.name)
        if match and not _alive_elsewhere(int(match[1])):
            _remove(left)
    return path.with_name(f".partial-{os.getpid()}-{path.name}")


def _alive_elsewhere(process: int) -> bool:
    """Whether another process of this number runs (on Windows there is no harmless way to ask)."""
    if process == os.getpid():
        return False
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush(file: Path) -> None:
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> object:
    """Read a JSON file written by `write_json` (or anyone else).

    Raises:
        ValueError: it is no JSON, no regular file, or larger than `MOST_JSON`.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise ValueError(f"{path.name} is no regular file")
    with path.open("rb") as file:
        content = file.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise ValueError(f"{path.name} has more than {MOST_JSON >> 20} MiB")
    return json.loads(content.decode("utf-8"))


def digest(*paths: Path | str) -> str:
    """One sha256 over the contents of files, and of all files below folders, by sorted name."""
    total = hashlib.sha256()
    for number, path in enumerate(map(Path, paths)):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            # The number tells a file that moved from one folder to the next.
            total.update(f"{number}\0{name}\0{content}\n".encode())
    return total.hexdigest()


@contextmanager
def checked_folder(path: Path | str) -> Iterator[Path]:
    """`atomic_folder` with a list of its files and their sha256 in it, for `verify`."""
    with atomic_folder(path) as folder:
        yield folder
        write_checksums(folder / CHECKSUMS)


def verify(*folders: Path | str) -> None:
    """Refuse folders of `checked_folder` that are not as they were written, to the bit.

    A stage calls it before it reads them. DVC hashes again only what has a new size or time, so
    that a bit that flips on the disk escapes it.

    Raises:
        CaptionerError: a file is missing, changed or not listed: it is named.
    """
    for folder in folders:
        try:
            read_verified(Path(folder) / CHECKSUMS)
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            where = Path(getattr(error, "filename", None) or Path(folder) / CHECKSUMS)
            what = f"{where.name}: {reason}" if isinstance(error, OSError) else reason
            raise CaptionerError(
                f"{folder}: damaged ({what}); remove {folder} and run `dvc repro`"
            ) from None


def write_checksums(path: Path | str, content: Mapping[str, object] | None = None) -> None:
    """Write a JSON file that lists all files beside and below it with their sha256, as `files`.

    Args:
        path: its name; files that are added or changed afterwards are refused.
        content: what else it is to hold. A sha256 of all that is in it is its `checksum`.
    """
    path = Path(path)
    names = [name for name in _files_below(path.parent) if name != path.name]
    sums = {name: sha256_of(path.parent / name) for name in sorted(names)}
    sealed = {**(content or {}), "files": sums}
    write_json(path, sealed | {"checksum": _sha256_of_json(sealed)})


def read_verified(path: Path | str, most: int | None = None) -> dict[str, object]:
    """Read what `write_checksums` wrote, and verify itself and every file that it lists.

    Files may be links to files, as DVC and model hubs make them of a cache: what counts is their
    content. Links to folders are refused.

    Args:
        path: of the list.
        most: bytes that all files may have together; no limit without it.

    Returns:
        its content.

    Raises:
        OSError: it cannot be read.
        ValueError: a file is missing, changed or not listed: it is named.
    """
    path = Path(path)
    content = read_json(path)
    sealed = {k: v for k, v in content.items() if k != "checksum"} if type(content) is dict else {}
    if not sealed or content.get("checksum") != _sha256_of_json(sealed):
        raise ValueError(f"{path.name} is not as it was written")
    sums = sealed.get("files")
    if not isinstance(sums, dict):
        raise ValueError(f"{path.name} lists no files")
    size = 0
    found = set()
    for name in _files_below(path.parent):
        if name == path.name:
            continue
        if name not in sums:
            raise ValueError(f"{name!r:.200} is not listed in {path.name}; remove it")
        found.add(name)
        size += (path.parent / name).stat().st_size
    if missing := sorted(set(sums) - found):
        raise ValueError(f"{missing[0]!r:.200} is missing")
    if most is not None and size > most:
        raise ValueError(f"its files have {size:,} bytes, at most {most:,} are expected")
    for name in sorted(sums):
        if sha256_of(path.parent / name) != sums[name]:
            raise ValueError(f"{name!r:.200} is not as it was written: its sha256 is another")
    return content


def _files_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Names of all files below a folder, with slashes; ValueError for all but files and folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(folder / entry.name, f"{name}/")
            elif entry.is_file():
                yield name
            else:
                raise ValueError(f"{name!r:.200} is neither a file nor a folder")


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex digits; ValueError if it is no regular file."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path.name} is no regular file")
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (block := file.read(min(left, 2**20))):
            total.update(block)
            left -= len(block)
    return total.hexdigest()


def _sha256_of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
