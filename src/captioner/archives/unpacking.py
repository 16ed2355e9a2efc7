"""One stream of bytes out of a plain file or a packed one, with a bound on what it unpacks to.

A bomb says nothing of its size beforehand, as gzip and xz keep none that could be trusted; so what
has come out is held against what was read for it, all along.
"""

import bz2
import gzip
import lzma
from pathlib import Path

from captioner import CaptionerError
from captioner.archives.container import MAX_RATIO, RATIO_FROM

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_CHUNK = 2**20  # bytes unpacked at a time where they are only passed over


class Stream:
    """The bytes of a file, unpacked if need be, which are never more than `MAX_RATIO` allows.

    Attributes:
        packed: whether they are unpacked; then going back starts again at the beginning.
        position: in the unpacked bytes.
    """

    def __init__(self, path: Path):
        self._path = path
        self._raw = path.open("rb")
        start = self._raw.read(6)
        self._raw.seek(0)
        opener = next((PACKED[magic] for magic in PACKED if start.startswith(magic)), None)
        self._file = opener(self._raw) if opener else self._raw
        self.packed = opener is not None
        self.position = 0

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    @property
    def taken(self) -> int:
        """Bytes of the file read so far."""
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        data = self._up_to(size)
        if len(data) < size:
            raise EOFError("cut off")
        return data

    def seek(self, position: int) -> None:
        if not self.packed:
            self.position = self._file.seek(position)
            return
        if position < self.position:
            self.position = self._file.seek(0)
        while self.position < position:
            self.read(min(_CHUNK, position - self.position))

    def drain(self) -> None:
        """Unpack the rest: the checksum stands at the end."""
        while self.packed and self._up_to(_CHUNK):
            pass

    def _up_to(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        if self.position > RATIO_FROM + MAX_RATIO * self.taken:
            raise CaptionerError(
                f"{self._path}: refused: unpacks to more than {MAX_RATIO} times its size"
            )
        return data
