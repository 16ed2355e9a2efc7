"""Write files and folders whole or not at all: write beside, flush to disk, then rename.

A reader never sees half a file, whatever kills the writer. JSON is written with sorted keys and no
time stamps, so that equal content means equal bytes (DVC compares bytes). What people name is read
by `read_regular` alone: a pipe would be waited for, and a device read, without end.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner import CaptionerError


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


def read_regular(path: Path | str, limit: int) -> bytes:
    """The bytes of a regular file, or of one behind a link.

    Args:
        limit: most bytes; no more than one beyond it is read, though the file may grow.

    Raises:
        CaptionerError: a pipe, a device, a socket, or too large; without the path.
        OSError: it cannot be read, or is a folder.
    """
    path = Path(path)
    _check_regular(path, path.stat())  # before it is opened: opening alone can set a device going
    # What takes the file's place in between is not waited for, and is found out by its handle.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _check_regular(path, status)
        data = b"" if status.st_size > limit else file.read(limit + 1) or b""
    if (size := max(status.st_size, len(data))) > limit:
        raise CaptionerError(f"{size} bytes are too many to read at once (at most {limit})")
    return data


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if (what := irregular(status.st_mode)) is not None:
        raise CaptionerError(f"is {what}; name a regular file, such as a copy of what it gives")


def irregular(mode: int) -> str | None:
    """What a file of this mode is, in words; None for a regular file."""
    kinds = {
        stat.S_IFREG: None,
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def leads_out(path: Path, root: Path) -> bool:
    """Whether a file or folder below `root`, which is resolved, is a link to something outside."""
    return path.is_symlink() and not path.resolve().is_relative_to(root)
