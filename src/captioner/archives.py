"""Read members of a zip archive in place, distrusting everything that the archive says of itself.

Archives stay archives (thousands of single files slow DVC down), so members are read straight out
of them and never unpacked. Opening checks every member once: names that lead out of a folder,
links, encryption and sizes that no honest archive declares (zip bombs) are refused, with the
archive and the member in the message. Sources: PKWARE APPNOTE.TXT, sections 4.4 and 4.5; D.
Fifield, "A better zip bomb" (WOOT 2019), on overlapping members.
"""

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from captioner import CaptionerError

MAX_MEMBER = 16 * 2**30  # bytes; the largest text of word vectors in use is 5.6 GB
MAX_READ = 256 * 2**20  # bytes that `read` puts into memory at once: no picture file is larger
# DEFLATE reaches 1032:1 on zeros, text about 20:1; small members may be as repetitive as they like.
MAX_RATIO = 200
RATIO_FROM = 2**20  # bytes

# What zipfile raises on a damaged directory, and what it raises while a damaged member is read.
_DAMAGED_DIRECTORY = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    ValueError,
    OSError,
)
_DAMAGED_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError)


class Archive:
    """A zip archive opened for reading; use it in a `with` statement.

    Attributes:
        names: the members' names in the archive's order, without folders and without the resource
            forks that macOS adds (`__MACOSX/`, `._NAME`).

    Raises:
        CaptionerError: the file is missing, no zip archive, damaged, or a member is refused.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise CaptionerError(f"{self.path}: no such archive") from None
        except _DAMAGED_DIRECTORY as error:
            raise CaptionerError(
                f"{self.path}: damaged, or no zip archive ({error}); fetch it again"
            ) from None
        try:
            self._check()
        except BaseException:
            self._zip.close()
            raise
        self.names = [
            info.filename
            for info in self._zip.infolist()
            if not info.is_dir() and not _is_resource_fork(info.filename)
        ]

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def find(self, base_name: str) -> str | None:
        """The name of the member `base_name`, in whatever folder it lies (the outermost counts)."""
        found = [name for name in self.names if name.rsplit("/", 1)[-1] == base_name]
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    def read(self, name: str) -> bytes:
        """The whole member, its checksum verified.

        Raises:
            CaptionerError: no such member, too large for memory, or damaged.
        """
        size = self._info(name).file_size
        if size > MAX_READ:
            raise self._refuse(name, f"{size} bytes are too many to read at once")
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[io.BufferedIOBase]:
        """Yield the member as a stream of bytes; damage met while reading is a `CaptionerError`."""
        info = self._info(name)
        try:
            file = self._zip.open(info)
        except _DAMAGED_DIRECTORY as error:
            raise self._damaged(name, error) from None
        try:
            with file:
                yield file
        except _DAMAGED_MEMBER as error:  # no wider: the caller's own errors pass through here
            raise self._damaged(name, error) from None

    def _info(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(name)
        except KeyError:
            raise CaptionerError(f"{self.path}: has no member {name!r}") from None

    def _check(self) -> None:
        """Refuse the whole archive for one bad member: nobody honest writes such archives."""
        packed = 0
        for info in self._zip.infolist():
            # zipfile cuts `filename` at a NUL; `orig_filename` is what the archive really says
            problem = _name_problem(info.orig_filename)
            if problem is None and stat.S_ISLNK(info.external_attr >> 16):
                problem = "is a symbolic link"
            if problem is None and info.flag_bits & 0x1:
                problem = "is encrypted"
            if problem is None and info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                problem = f"is packed with method {info.compress_type}; expected store or deflate"
            if problem is None and info.file_size > MAX_MEMBER:
                problem = f"claims to hold {info.file_size} bytes"
            if (
                problem is None
                and info.file_size > RATIO_FROM
                and info.file_size > MAX_RATIO * info.compress_size
            ):
                problem = f"claims {info.file_size} bytes from {info.compress_size} packed bytes"
            if problem is not None:
                raise self._refuse(info.orig_filename, problem)
            packed += info.compress_size
            if packed > self.path.stat().st_size:
                raise self._refuse(info.orig_filename, "overlaps other members")

    def _damaged(self, name: str, error: Exception) -> CaptionerError:
        return CaptionerError(
            f"{self.path}: member {name!r}: damaged ({error}); fetch the archive again"
        )

    def _refuse(self, name: str, problem: str) -> CaptionerError:
        return CaptionerError(f"{self.path}: refused: member {name!r} {problem}")


def _name_problem(name: str) -> str | None:
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path as its name"
    if ".." in name.split("/"):
        return "has a name that leads out of the archive"
    if "\0" in name or not name:
        return "has no proper name"
    return None


def _is_resource_fork(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or parts[-1].startswith("._")
