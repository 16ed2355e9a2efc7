"""Fetch published files: from a mirror folder, else from the network, verified or not at all.

The folder that CAPTIONER_MIRROR names is looked in first, so that a machine without a network
works, and so that a deliberately smaller copy can stand in for the published file (its actual
SHA-256 is logged). A download is checked and only then renamed to its place. Unfinished pieces and
locks lie in a hidden folder beside the destination: DVC empties a stage's output folder before it
runs the stage, and would throw an unfinished piece away.
"""

import glob
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from captioner import CaptionerError
from captioner.files import atomic_file
from captioner.transfer import (
    WEB_PAGE,
    Unreachable,
    check_room,
    transfer,
    version_file,
    writing,
)

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "CAPTIONER_MIRROR"

# How the files of each kind begin (as APPNOTE.TXT, RFC 1952 and RFC 8259 have it): servers send
# log-in pages, error texts and confirmation forms with any Content-Type.
_BEGINNINGS = {
    ".zip": (rb"PK", "zip archive"),
    ".npz": (rb"PK", "npz archive"),
    ".gz": (rb"\x1f\x8b", "gzip file"),
    ".tgz": (rb"\x1f\x8b", "gzip file"),
    ".json": (rb"(\xef\xbb\xbf)?\s*[{\[]", "JSON file"),
}
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: what its publisher calls it.
        urls: addresses to try in turn; none where it is given out on request only.
        sha256: the checksum that its publisher pins, or None.
        page: where to read about it or to ask for it.
        other_names: what else it may be called in the mirror folder: other packings of the same.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    page: str | None = None
    other_names: tuple[str, ...] = ()


class FetchError(CaptionerError):
    """`file` could not be had; `problems` says why, one entry for each url."""

    def __init__(self, file: RemoteFile, problems: Sequence[str]):
        self.file = file
        self.problems = list(problems)
        super().__init__(_by_hand([self]))


def fetch_all(files: Iterable[RemoteFile], destination: Path | str) -> list[Path]:
    """Fetch `files` into the folder `destination`; one error names every file that is missing."""
    paths, failures = [], []
    for file in files:
        try:
            paths.append(fetch(file, destination))
        except FetchError as error:
            failures.append(error)
    if failures:
        raise CaptionerError(_by_hand(failures))
    return paths


def fetch(file: RemoteFile, destination: Path | str, *, mirror: Path | str | None = None) -> Path:
    """Put `file` into the folder `destination` and return its path.

    Two processes that want the same file at once download it once. A file that is already there
    is kept if it is what the mirror holds or, without a mirror, has the checksum (if there is one).

    Args:
        file: its checksum counts for a download; a copy in the mirror need not have it.
        mirror: folder to search before the network; default: the one CAPTIONER_MIRROR names.

    Raises:
        FetchError: no place has the file; the message says what to put where by hand.
        CaptionerError: the mirror is no folder, or the disk is full.
    """
    destination = Path(destination)
    for url in file.urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise CaptionerError(
                f"{file.name}: url {url}: only http and https addresses are fetched"
            )
    # resolve: where the destination is a link, pieces must lie on the disk that it leads to
    folder = destination.resolve()
    pieces = folder.parent / f".{folder.name}-partial"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pieces.mkdir(exist_ok=True)
    with FileLock(pieces / f"{file.name}.lock"):
        name = _fetch_one(file, folder, pieces, mirror)
        for kind in ("partial", "version"):  # also those of the urls that failed
            for left in pieces.glob(f"{glob.escape(file.name)}.????????.{kind}"):
                left.unlink()
    return destination / name


def _fetch_one(file: RemoteFile, folder: Path, pieces: Path, mirror: Path | str | None) -> str:
    """Put the file into `folder`, which may have it; the name of what is there then."""
    # the published checksum is that of the published packing
    checksums = {file.name: file.sha256} | dict.fromkeys(file.other_names)
    for name, sha256 in checksums.items():
        found = find_in_mirror(name, mirror, sha256)
        if found is not None:
            _copy(found, folder / name, sha256)
            return name
    for name, sha256 in checksums.items():
        there = folder / name
        if there.is_file() and sha256 in (None, _sha256(there)):
            return name
    _download(file, folder / file.name, pieces)
    return file.name


def _by_hand(failures: Sequence[FetchError]) -> str:
    """What is missing and why, where to ask for it, and where to put it, in one line."""
    why = [f"{f.file.name} ({', '.join(f.problems) or 'no url known'})" for f in failures]
    wanted = []
    for file in (failure.file for failure in failures):
        notes = [f"or {', '.join(file.other_names)}"] if file.other_names else []
        notes += [f"ask for it at {file.page}"] if file.page else []
        wanted.append(file.name + (f" ({'; '.join(notes)})" if notes else ""))
    return (
        f"could not fetch {'; '.join(why)}. By hand: put {', '.join(wanted)} into any folder and "
        f"run again with {MIRROR_VARIABLE}=FOLDER"
    )


def find_in_mirror(name: str, mirror: Path | str | None, sha256: str | None) -> Path | None:
    """The mirror's file of that name: one with the published checksum, else the outermost one."""
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return None
    if not Path(mirror).is_dir():
        raise CaptionerError(f"{MIRROR_VARIABLE}: {mirror}: no such folder; correct or unset it")
    # os.walk does not follow links to folders, which can go in circles
    found = [Path(folder) / name for folder, _, files in os.walk(mirror) if name in files]
    found.sort(key=lambda path: (len(path.parts), path.as_posix()))
    if len(found) > 1:
        found = [path for path in found if sha256 and _sha256(path) == sha256] or found
        log.info("%s: several copies in the mirror; using %s", name, found[0])
    return found[0] if found else None


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    """Copy from the mirror and say which bytes these are: they need not be the published ones."""
    try:
        check_room(target.name, source.stat().st_size - _size(target), target.parent)
        actual = _sha256(source)
        if not target.exists() or _sha256(target) != actual:
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise CaptionerError(f"{source}: cannot copy to {target}: {error}") from None
    log.info("%s: taken from the mirror (%s), sha256 %s", target.name, source, actual)
    if sha256 is not None and actual != sha256:
        log.warning(
            "%s: not the published file (sha256 %s), but accepted from %s with sha256 %s",
            target.name,
            sha256,
            MIRROR_VARIABLE,
            actual,
        )


def _download(file: RemoteFile, target: Path, pieces: Path) -> None:
    problems = []
    for url in file.urls:
        tag = hashlib.sha256(url.encode()).hexdigest()[:8]
        partial = pieces / f"{file.name}.{tag}.partial"  # never one url's bytes after another's
        try:
            transfer(url, file.name, partial)
            actual = _verify(partial, file)
        except Unreachable as error:
            problems.append(f"{url}: {error}")
            continue
        with writing(target):
            partial.replace(target)
        log.info("%s: downloaded from %s, sha256 %s", file.name, url, actual)
        return
    raise FetchError(file, problems)


def _verify(partial: Path, file: RemoteFile) -> str:
    """The SHA-256; what is not the file is deleted: a page, another format, a wrong checksum."""
    with partial.open("rb") as opened:
        head = opened.read(512)
    beginning, kind = _BEGINNINGS.get(Path(file.name).suffix, (b"", ""))
    if _MARKUP.match(head) and not file.name.endswith(".html"):
        problem = WEB_PAGE
    elif not head:
        problem = "an empty answer"
    elif not re.match(beginning, head):
        problem = f"no {kind}"
    elif file.sha256 not in (None, actual := _sha256(partial)):
        problem = f"wrong checksum: sha256 {actual}, published {file.sha256}"
    else:
        return actual
    partial.unlink()
    version_file(partial).unlink(missing_ok=True)
    raise Unreachable(problem)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
