"""Tar archives, plain or packed with gzip, bzip2 or xz.

The headers are walked here and not by `tarfile.open`, which takes a damaged header for the end of
the archive, reads extended headers of any size into memory and follows negative sizes back. A
packed tar is one stream: what lies behind a place is unpacked only by unpacking all before it.
Source: POSIX.1-2008, pax, "ustar Interchange Format" and "pax Header Block"; the GNU tar manual,
"Basic Tar Format".
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from captioner import CaptionerError
from captioner.archives.container import MAX_MEMBER, Container, name_problem
from captioner.archives.unpacking import Stream

BLOCK = 512  # bytes; headers and contents begin at multiples of it
MAX_HEADER = 2**20  # bytes of an extended header; macOS keeps icons and tags of a file there
MAX_MEMBERS = 2**21  # ImageNet has 1.3 million pictures

_LONG_NAME = (tarfile.GNUTYPE_LONGNAME,)
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_IGNORED = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
_REFUSED = {
    tarfile.SYMTYPE: "is a symbolic link",
    tarfile.LNKTYPE: "is a hard link",
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a pipe",
    tarfile.GNUTYPE_SPARSE: "is a file with holes",
}
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int  # of its first byte, in the unpacked archive
    size: int
    kind: bytes  # the type flag of its header
    sparse: bool


class Tar(Container):
    """A tar archive. A packed one is unpacked when it is opened, for the names and to check it.

    Raises:
        CaptionerError: the file is damaged, unpacks to absurdly much, or a member is refused.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        try:
            self._stream = Stream(self.path)
        except OSError as error:
            raise CaptionerError(f"{self.path}: cannot be read ({error.strerror})") from None
        self._members: dict[str, _Member] = {}
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def read(self, name: str) -> bytes:
        """The whole file; of a packed tar, after unpacking all that lies before it."""
        member = self._members.get(name)
        if member is None:
            raise self._missing(name)
        self._check_size(name, member.size)
        try:
            self._stream.seek(member.offset)
            return self._stream.read(member.size)
        except _DAMAGED as error:
            raise self._damaged(name, error) from None

    def read_all(
        self, names: Iterable[str], damaged: dict[str, str] | None = None
    ) -> Iterator[tuple[str, bytes]]:
        if self._stream.packed:
            wanted = frozenset(names)
            names = [name for name in self.names if name in wanted]
        return super().read_all(names, damaged)

    def _look(self) -> None:
        """List the members; refuse the whole archive for one bad member."""
        members = []
        with tqdm(
            total=self.path.stat().st_size,
            desc=f"look into {self.path.name}",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        ) as bar:
            try:
                for member in _members(self._stream):
                    problem = _problem(member)
                    if problem is None and len(members) == MAX_MEMBERS:
                        problem = f"comes after {MAX_MEMBERS} others; no data set has so many"
                    if problem is not None:
                        raise self._refuse(member.name, problem)
                    members.append(member)
                    bar.update(self._stream.taken - bar.n)
            except _DAMAGED as error:
                where = f"in or behind {members[-1].name!r}" if members else "or no tar archive"
                raise self._broken(where, error) from None
            try:
                self._stream.drain()
            except _DAMAGED as error:
                raise self._broken("or cut off", error) from None
        files = [(_relative(m.name), m) for m in members if m.kind != tarfile.DIRTYPE]
        self._list(name for name, _ in files)
        self._members = dict(files)

    def _broken(self, where: str, error: Exception) -> CaptionerError:
        return CaptionerError(f"{self.path}: damaged, {where} ({error}); fetch it again")


def _members(stream: Stream) -> Iterator[_Member]:
    """All members in order, links and folders too; extended headers go into what they extend."""
    name, extended = None, {}
    while True:
        block = stream.read(BLOCK)
        if not any(block):
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        start = stream.position
        if header.type in _LONG_NAME + _EXTENDED + _IGNORED:
            size = header.size
            if not 0 <= size <= MAX_HEADER:
                raise tarfile.HeaderError(f"an extended header of {size} bytes")
            data = stream.read(size)
            if header.type in _LONG_NAME:
                name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            elif header.type in _EXTENDED:
                extended = _records(data)
        else:
            size = int(extended.get("size", header.size))
            if size < 0:
                raise tarfile.HeaderError(f"a size of {size} bytes")
            sparse = any(key.startswith("GNU.sparse.") for key in extended)
            path = extended.get("path") or name or header.name
            yield _Member(path, start, size, header.type, sparse)
            name, extended = None, {}
            if header.type == tarfile.DIRTYPE:
                size = 0  # whatever it says, nothing follows
        stream.seek(start + -(-size // BLOCK) * BLOCK)


def _records(data: bytes) -> dict[str, str]:
    """An extended header, "LENGTH KEY=VALUE\n" again and again, LENGTH being that of all this."""
    records, place = {}, 0
    while place < len(data):
        length = int(data[place : place + 20].partition(b" ")[0])
        end = place + length
        if not place < end <= len(data):
            raise tarfile.HeaderError("an extended header with a wrong length")
        record = data[place : end - 1].decode("utf-8", "surrogateescape")
        key, _, value = record.partition(" ")[2].partition("=")
        records[key], place = value, end
    return records


def _problem(member: _Member) -> str | None:
    if problem := name_problem(member.name):
        return problem
    if member.kind == tarfile.DIRTYPE:
        return None
    if not _relative(member.name):
        return "has no proper name"
    if member.sparse:
        return _REFUSED[tarfile.GNUTYPE_SPARSE]
    if member.kind not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        return _REFUSED.get(member.kind, f"is no plain file (type {member.kind!r})")
    if member.size > MAX_MEMBER:
        return f"claims to hold {member.size} bytes"
    return None


def _relative(name: str) -> str:
    """Without the "./" that `tar -c .` writes before every name."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
