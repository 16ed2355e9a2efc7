"""Folders of files, and of folders."""

import os
import stat
from pathlib import Path

from captioner import CaptionerError
from captioner.archives import container
from captioner.archives.container import Container
from captioner.files import irregular, leads_out, read_regular


class Folder(Container):
    """A folder and all below it. A link to a file inside is that file once more; linked folders
    are not entered.

    Raises:
        CaptionerError: something in it cannot be looked into, is a link that leads out of it, or is
            neither file nor folder (a pipe would be waited for without end).
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        root = self.path.resolve()
        names = []
        for parent, folders, files in os.walk(self.path, onerror=self._stop):
            for name in folders + files:
                path = Path(parent, name)
                relative = path.relative_to(self.path).as_posix()
                try:
                    mode = path.stat().st_mode
                except OSError as error:  # a link to nothing too, and one in a circle
                    raise self._unreadable(error) from None
                if leads_out(path, root):
                    raise self._refuse(relative, "is a link that leads out of the folder")
                if irregular(mode) is None:
                    names.append(relative)
                elif not stat.S_ISDIR(mode):
                    raise self._refuse(relative, "is neither file nor folder")
        self._list(sorted(names))
        self._known = frozenset(self.names)

    def read(self, name: str) -> bytes:
        if name not in self._known:
            raise self._missing(name)
        try:
            return read_regular(self.path / name, container.MAX_READ)
        except CaptionerError as error:
            raise self._refuse(name, str(error)) from None
        except OSError as error:
            raise self._unreadable(error) from None

    def _stop(self, error: OSError) -> None:
        raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> CaptionerError:
        name = os.path.relpath(error.filename, self.path)
        return CaptionerError(f"{self.path}: {name!r} cannot be read ({error.strerror})")
