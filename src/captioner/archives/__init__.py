"""Read files out of a zip, a tar or a folder where they lie, distrusting all that these say.

Archives stay archives (thousands of single files slow DVC down): members are read straight out of
them and never unpacked. Opening checks every member once: names that lead elsewhere, links,
encryption, and sizes that no honest archive declares are refused, with archive and member in the
message. `open_pictures` tells by the content which of the three it is.
"""

import stat
from pathlib import Path

from captioner import CaptionerError
from captioner.archives.container import Container
from captioner.archives.folders import Folder
from captioner.archives.tars import Tar
from captioner.archives.unpacking import PACKED
from captioner.archives.zips import Archive
from captioner.files import irregular

__all__ = ["Archive", "Container", "Folder", "Tar", "is_archive", "open_pictures"]

_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")  # a first member; none at all; the first of many volumes


def open_pictures(path: Path | str) -> Container:
    """Open a folder, a zip or a tar (plain, .gz, .bz2, .xz); use it in a `with` statement.

    What it costs: a folder, a zip and a plain tar have a list of names and give any file at once.
    A packed tar has neither: opening it unpacks all of it once for the names (and checks it
    thereby), and each `read_all` unpacks it once more, as far as the last file asked for. To have
    all pictures of train, then of val, then of test takes four passes over 4 GB, a few minutes;
    `gunzip` it before, and it takes none.

    Raises:
        CaptionerError: it is missing, none of these, damaged, or holds something refused.
    """
    opener = _opener(Path(path))
    if opener is None:
        raise CaptionerError(
            f"{path}: no folder, zip or tar (plain, .gz, .bz2, .xz), or damaged from the start"
        )
    return opener(path)


def is_archive(path: Path | str) -> bool:
    """Whether it begins as a zip or a tar does.

    Raises:
        CaptionerError: it is missing or cannot be read.
    """
    return _opener(Path(path)) in (Archive, Tar)


def _opener(path: Path) -> type[Container] | None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return Folder
        if (what := irregular(mode)) is not None:  # a pipe would be waited for without end
            raise CaptionerError(f"{path}: is {what}; expected a folder, zip or tar")
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise CaptionerError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", error)
        raise CaptionerError(f"{path}: cannot be read ({reason})") from None
    if start.startswith(_ZIP):
        return Archive
    if start.startswith(tuple(PACKED)) or start[257:262] == b"ustar" or path.suffix == ".tar":
        return Tar
    return None
