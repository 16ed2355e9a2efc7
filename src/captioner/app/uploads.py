"""The folder of a server in which pictures lie that were sent to its pages, for an hour at most.

Its name holds the number of the server's process, and a file in it is locked as long as the server
runs, so that the next one can tell what a killed one left behind.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from captioner.files import _alive_elsewhere, atomic_file

NAME = "captioner-app-"
LOCK = ".lock"
KEPT = 1_000_000_000  # bytes of all uploads: the oldest make room
SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp", b"GI": "gif"}


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder in the system's folder for temporary files, removed at the end."""
    remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(
        prefix=f"{NAME}{os.getpid()}-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        with FileLock(folder / LOCK):
            yield folder


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of this user's servers that run no more."""
    name = re.compile(re.escape(NAME) + r"(\d{1,9})-\w+")
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            match = name.fullmatch(entry.name)
            if match and not _alive_elsewhere(int(match[1])):
                with contextlib.suppress(OSError):
                    _remove(entry)


def _remove(entry: os.DirEntry) -> None:
    if not entry.is_dir(follow_symlinks=False):
        return
    if hasattr(os, "getuid") and entry.stat(follow_symlinks=False).st_uid != os.getuid():
        return
    # A server in a container has a number of its own; its lock says that it runs.
    lock = Path(entry.path) / LOCK
    if lock.is_symlink() or not lock.is_file():
        return  # not ours, or so new that it has no lock yet
    with contextlib.suppress(Timeout), FileLock(lock, blocking=False):
        shutil.rmtree(entry.path, ignore_errors=True)


class Uploads:
    """Keeps pictures in a folder.

    Args:
        folder: of this server alone.
        kept: bytes of all; the oldest are removed first.
    """

    def __init__(self, folder: Path, kept: int = KEPT):
        self.folder, self._kept, self._size = folder.resolve(), kept, 0
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> Path:
        """Where a picture lies now, under a name made of its content.

        Args:
            data: a picture that was looked at.

        Raises:
            OSError: the disk does not take it.
        """
        name = f"picture.{SUFFIXES.get(data[:2], 'tiff')}"
        path = self.folder / hashlib.sha256(data).hexdigest() / name
        with self._lock:
            with atomic_file(path) as temporary:
                temporary.write_bytes(data)
            self._size += len(data) - self._files.pop(path, 0)
            self._files[path] = len(data)
            while self._size > self._kept and len(self._files) > 1:
                oldest, size = self._files.popitem(last=False)
                self._size -= size
                oldest.unlink(missing_ok=True)  # Gradio may have done so after an hour
        return path
