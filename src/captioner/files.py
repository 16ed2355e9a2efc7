"""Write files and folders whole or not at all: write beside, flush to disk, then rename.

A reader never sees half a file, whatever kills the writer. Only what is absent, an empty folder or
of our own making is ever replaced. JSON is written with sorted keys and no time stamps, so that
equal content means equal bytes (DVC compares bytes). What people name is read by `read_regular`
alone: a pipe would be waited for, and a device read, without end.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from captioner import CaptionerError

CHECKSUMS = "checksums.json"
MOST_JSON = 2**25  # bytes; lists in lists take 25 times as much memory

Mark = tuple[str, bytes]

# How files of these formats begin: a stranger's file of the same name is not taken for ours.
_BEGINNINGS = {
    ".h5": b"\x89HDF",
    ".json": (b"{", b"["),
    ".npy": b"\x93NUMPY",
    ".npz": b"PK",
    ".parquet": b"PAR1",
    ".png": b"\x89PNG",
}
# What the system refuses for reasons that lie with the person's disk, folder or name.
_NAMES = """EACCES EBUSY EDQUOT EFBIG EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENOSPC ENOTDIR
ENOTEMPTY EPERM EROFS EXDEV"""
_REFUSALS = {code for code, name in errno.errorcode.items() if name in _NAMES.split()}


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, since some libraries choose the format by it.

    Raises:
        CaptionerError: `path` is no file that could be replaced (a folder, a device), or the
            system refuses to write it: the disk is full, say. What was there is left as it was.
    """
    path = Path(path)
    with _refusals(path):
        if path.exists() and not path.is_file():
            raise CaptionerError(f"{path}: is no file; name a file")
        temporary = _temporary(path)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
        finally:
            _remove(temporary)


@contextmanager
def atomic_folder(
    path: Path | str, files: Sequence[str] = (), mark: Mark | None = None
) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; put it in the place of `path` on success.

    Folders cannot be swapped in one step: a kill between the two renames leaves none at `path`,
    until the next writer puts the old one back. Of processes that write it at once, the last wins.

    Args:
        files, mark: what may be replaced, see `check_replaceable`.

    Raises:
        CaptionerError: as for `atomic_file`.
    """
    path = check_replaceable(path, files, mark)
    with _refusals(path):
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            _swap(temporary, path, files, mark)
        finally:
            # After a full disk HDF5 has the file still open, and crashes if it cannot end it.
            for file in temporary.rglob("*.h5"):
                with suppress(OSError):
                    os.truncate(file, 0)
            _remove(temporary)


def check_replaceable(
    path: Path | str, files: Sequence[str] = (), mark: Mark | None = None
) -> Path:
    """Refuse to put a folder in the place of anything but an empty folder or an older one of ours.

    Args:
        files: patterns (`fnmatch`) of the files in such a folder, with "/" between names; each
            file must also begin as its suffix says. With none, only an empty folder is replaced.
        mark: a file that such a folder always has, and bytes in it that no stranger's file has.

    Returns:
        where the folder is to be written: a link to a folder is followed.

    Raises:
        CaptionerError: what is in the way is named.
    """
    path = Path(path)
    with _refusals(path):
        real = Path(os.path.realpath(path))
        if path.is_symlink() and not path.exists():
            raise CaptionerError(f"{path}: is a link to {real}, which is not there; name a folder")
        if not os.path.lexists(real):
            return real
        if not real.is_dir():
            raise CaptionerError(f"{path}: is a file; name a folder")
        if Path.cwd().is_relative_to(real):
            raise CaptionerError(f"{path}: is the working folder or above it; name a new folder")
        try:
            before = real.stat().st_ino
            other = _stranger(real, files) or (mark and _unmarked(real, *mark))
            replaced = real.stat().st_ino != before
        except FileNotFoundError:
            replaced = True
        if replaced:  # by another process, just now
            return check_replaceable(path, files, mark)
        if other:
            raise CaptionerError(
                f"{path}: holds other files ({other:.80}); name a new folder, since what is "
                "written takes its place"
            )
    return real


def check_apart(path: Path | str, *inputs: Path | str) -> None:
    """Refuse to write into what is read.

    Raises:
        CaptionerError: `path` is one of the inputs, or lies in one or around one.
    """
    real = Path(os.path.realpath(path))
    for given in inputs:
        read = Path(os.path.realpath(given))
        if real.is_relative_to(read) or read.is_relative_to(real):
            raise CaptionerError(f"{path}: is read from ({given}); name another place to write to")


def failure(error: BaseException) -> str | None:
    """One line for an error that lies with the person's disk, folders or permissions, else None.

    What names a file of the program itself, or no reason of the system, is a fault of the program.
    """
    name = getattr(error, "filename", None)
    if not isinstance(error, OSError) or not isinstance(name, str | bytes):
        reason = _reason(error)
        return reason and f"cannot write: {reason}"
    if error.errno not in _REFUSALS | {errno.ENOENT, errno.EEXIST}:
        return None
    path = Path(os.fsdecode(name))
    ours = path.is_absolute() and path.is_relative_to(Path(__file__).parent)
    return None if ours else f"{path}: {os.strerror(error.errno)}"


def _reason(error: BaseException) -> str | None:
    """Why the system refused, in its own words; None if this is no such error."""
    text = str(error)
    if isinstance(error, OSError):
        if error.errno in _REFUSALS:
            return os.strerror(error.errno)
        if re.search(r"requested and \d+ written|Not enough free space", text):  # numpy
            return os.strerror(errno.ENOSPC)
        return None
    if "database or disk is full" in text:  # SQLite
        return os.strerror(errno.ENOSPC)
    # faiss and TensorFlow wrap it in errors of their own.
    reasons = map(os.strerror, sorted(_REFUSALS))
    return next((reason for reason in reasons if reason in text), None)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Say which output cannot be written, and why; other errors pass."""
    try:
        yield
    except CaptionerError:
        raise
    except Exception as error:
        reason, name = _reason(error), getattr(error, "filename", None)
        if isinstance(name, str | bytes):  # it may be an input
            file = Path(os.fsdecode(name))
            if not file.is_relative_to(path.parent) and not path.is_relative_to(file):
                raise
        if reason is None:
            raise
        name = re.sub(r"\.partial-\d+-", "", str(path))  # an output in a folder that is not whole
        raise CaptionerError(f"{name}: cannot be written: {reason}") from error


def _stranger(folder: Path, files: Sequence[str]) -> str | None:
    """The first entry of a folder, or below, that is none of `files`."""
    for entry in sorted(folder.iterdir()):
        inner = [rest for file in files if (rest := _below(file, entry.name)) is not None]
        if entry.is_dir() and not entry.is_symlink():
            other = _stranger(entry, inner) if any(entry.iterdir()) else None if inner else ""
            if other is not None:
                return f"{entry.name}/{other}"
        elif "" not in inner or not entry.is_file():
            return entry.name
        else:
            with entry.open("rb") as opened:
                if not opened.read(16).startswith(_BEGINNINGS.get(entry.suffix, b"")):
                    return entry.name
    return None


def _unmarked(folder: Path, name: str, mark: bytes) -> str | None:
    """What shows that a folder has no such mark; None if it has, or is empty."""
    if (folder / name).is_file():
        return None if mark in (folder / name).read_bytes() else name
    return next((path.name for path in folder.iterdir()), None)


def _below(pattern: str, name: str) -> str | None:
    """The rest of a pattern whose first name is `name`."""
    first, _, rest = pattern.partition("/")
    return rest if fnmatchcase(name, first) else None


def _swap(new: Path, path: Path, files: Sequence[str], mark: Mark | None) -> None:
    """Rename `new` to `path`; an older folder is moved aside first, and removed."""
    old = new.with_name(new.name + ".old")
    try:
        for _ in range(100):  # others may be swapping the same folder
            try:
                new.replace(path)  # where nothing or (not on Windows) an empty folder is
                return
            except OSError as error:
                full = (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES)  # the last on Windows
                # What is no folder cannot be replaced; nothing there: another has just moved it.
                if error.errno not in full or (os.path.lexists(path) and not path.is_dir()):
                    raise
            _remove(old)
            check_replaceable(path, files, mark)  # again: things may have been put there
            with suppress(FileNotFoundError):  # another process has moved it
                path.replace(old)
        raise CaptionerError(f"{path}: other processes write it all the time; try again")
    finally:
        if old.exists() and not path.exists():  # interrupted between the renames
            old.replace(path)
        _remove(old)


def _temporary(path: Path) -> Path:
    """A free name beside `path`; what killed processes left there under such names is removed.

    An old folder that was moved aside when its writer was killed is put back.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CaptionerError(f"{error.filename}: is a file; a folder is wanted") from None
    ours = re.compile(r"\.partial-(\d{1,9})-" + re.escape(path.name) + r"(\.old|-journal)?")
    for left in list(path.parent.iterdir()):
        match = ours.fullmatch(left.name)
        if match and not _alive_elsewhere(int(match[1])):
            if match[2] == ".old" and not os.path.lexists(path):
                left.replace(path)
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
        with suppress(OSError):  # a name that is too long, a disk that became read-only
            path.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Take the room of a sparse file now: on a full disk, writes to a map of it end in SIGBUS."""
    if hasattr(os, "posix_fallocate"):  # Linux
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


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
def checked_folder(path: Path | str, files: Sequence[str] = ()) -> Iterator[Path]:
    """`atomic_folder` with a list of its files and their sha256 in it, for `verify`."""
    with atomic_folder(path, (*files, CHECKSUMS) if files else ()) as folder:
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
