"""Zip archives. Sources: PKWARE APPNOTE.TXT, sections 4.4 and 4.5; D. Fifield, "A better zip bomb"
(WOOT 2019), on overlapping members.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner import CaptionerError
from captioner.archives.container import (
    MAX_MEMBER,
    MAX_RATIO,
    RATIO_FROM,
    Container,
    name_problem,
)

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


class Archive(Container):
    """A zip archive: checksums are verified, and any member is had at once.

    Raises:
        CaptionerError: the file is missing, no zip archive, damaged, or a member is refused.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
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
            members = self._zip.infolist()
            self._list(info.filename for info in members if not info.is_dir())
        except BaseException:
            self._zip.close()
            raise

    def close(self) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        self._check_size(name, self._info(name).file_size)
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
            raise self._missing(name) from None

    def _check(self) -> None:
        """Refuse the whole archive for one bad member: nobody honest writes such archives."""
        packed = 0
        for info in self._zip.infolist():
            # zipfile cuts `filename` at a NUL; `orig_filename` is what the archive really says
            problem = name_problem(info.orig_filename)
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
