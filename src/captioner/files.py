"""Write files and folders whole or not at all: write beside, flush to disk, then rename.

A reader never sees half a file, whatever kills the writer. JSON is written with sorted keys and no
time stamps, so that equal content means equal bytes (DVC compares bytes).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    ours = re.compile(r"\.partial-(\d{1,9})-" + re.escape(path.name) + r"(\.old|-journal)?")
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
    """Read a JSON file written by `write_json` (or anyone else)."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


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
