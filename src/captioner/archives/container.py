"""What a zip, a tar and a folder have in common: names, and the bytes behind each."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from captioner import CaptionerError

MAX_MEMBER = 16 * 2**30  # bytes; the largest text of word vectors in use is 5.6 GB
MAX_READ = 256 * 2**20  # bytes that `read` puts into memory at once: no picture file is larger
# DEFLATE reaches 1032:1 on zeros, text about 20:1; small members may be as repetitive as they like.
MAX_RATIO = 200
RATIO_FROM = 2**20  # bytes


class Container:
    """Files in an archive or a folder, opened for reading; use it in a `with` statement.

    Attributes:
        path: of the archive or folder.
        names: of the files, relative, with slashes; in an archive's own order, sorted in a folder.
            Without the resource forks that macOS adds (`__MACOSX/`, `._NAME`).
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.names: list[str] = []

    def __enter__(self) -> "Container":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to do where no file is held open."""

    def find(self, base_name: str) -> str | None:
        """The name of the file `base_name`, in whatever folder it lies (the outermost counts)."""
        found = [name for name in self.names if name.rsplit("/", 1)[-1] == base_name]
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            CaptionerError: no such file, too large for memory, or damaged.
        """
        raise NotImplementedError

    def read_all(
        self, names: Iterable[str], damaged: dict[str, str] | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Each name with its bytes, one in memory at a time, in the order that costs least.

        That is the order asked for, but for a packed tar: there it is the archive's, in one pass.

        Args:
            names: some of `names`.
            damaged: takes the names of files that cannot be read, with the reason, and the rest
                goes on; without it the first of them is an error.

        Raises:
            CaptionerError: as for `read`.
        """
        for name in names:
            try:
                data = self.read(name)
            except CaptionerError as error:
                if damaged is None:
                    raise
                damaged[name] = str(error)
                continue
            yield name, data

    def _list(self, names: Iterable[str]) -> None:
        """Set `names`; which of two files of one name is meant nobody can say."""
        seen: set[str] = set()
        for name in names:
            if is_resource_fork(name):
                continue
            if name in seen:
                raise self._refuse(name, "stands twice in it")
            seen.add(name)
            self.names.append(name)

    def _missing(self, name: str) -> CaptionerError:
        return CaptionerError(f"{self.path}: has no member {name!r}")

    def _check_size(self, name: str, size: int) -> None:
        if size > MAX_READ:
            raise self._refuse(name, f"{size} bytes are too many to read at once")

    def _damaged(self, name: str, error: Exception) -> CaptionerError:
        return CaptionerError(
            f"{self.path}: member {name!r}: damaged ({error}); fetch the archive again"
        )

    def _refuse(self, name: str, problem: str) -> CaptionerError:
        return CaptionerError(f"{self.path}: refused: member {name!r} {problem}")


def name_problem(name: str) -> str | None:
    """What is wrong with the name of an archive's member, if anything."""
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path as its name"
    if ".." in name.split("/"):
        return "has a name that leads out of the archive"
    if "\0" in name or not name:
        return "has no proper name"
    return None


def is_resource_fork(name: str) -> bool:
    """Whether macOS put the file there, to keep what other systems' files do not have."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._")
