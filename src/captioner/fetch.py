"""Fetch published files: from a mirror folder, else from the network, verified or not at all.

The folder that CAPTIONER_MIRROR names is looked in first, so that a machine without a network
works, and so that a deliberately smaller copy can stand in for the published file (its actual
SHA-256 is logged). A download is checked and only then renamed to its place. Unfinished pieces and
locks lie in a hidden folder beside the destination: DVC empties a stage's output folder before it
runs the stage, and would throw an unfinished piece away.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from captioner import CaptionerError
from captioner.files import atomic_file
from captioner.transfer import WEB_PAGE, Unreachable, transfer, version_file

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "CAPTIONER_MIRROR"


@dataclass(frozen=True)
class RemoteFile:
    """A published file: name, urls to try in turn, the checksum its publisher pins (or None)."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None


class FetchError(CaptionerError):
    """The file `name` could not be had; `problems` says why, one entry for each url."""

    def __init__(self, name: str, problems: Sequence[str]):
        self.name = name
        self.problems = list(problems)
        super().__init__(_by_hand([self]))


def fetch_all(files: Iterable[RemoteFile], destination: Path | str) -> list[Path]:
    """Fetch `files` into the folder `destination`; one error names every file that is missing."""
    paths, failures = [], []
    for file in files:
        try:
            paths.append(fetch(file.name, file.urls, destination, sha256=file.sha256))
        except FetchError as error:
            failures.append(error)
    if failures:
        raise CaptionerError(_by_hand(failures))
    return paths


def fetch(
    name: str,
    urls: Sequence[str],
    destination: Path | str,
    *,
    sha256: str | None = None,
    mirror: Path | str | None = None,
) -> Path:
    """Put the file `name` into the folder `destination` and return its path.

    Two processes that want the same file at once download it once. A file that is already there
    is kept if it is what the mirror holds or, without a mirror, has the checksum (if there is one).

    Args:
        urls: http or https addresses, tried in turn.
        sha256: published checksum; a download must have it, a copy in the mirror need not.
        mirror: folder to search before the network; default: the one CAPTIONER_MIRROR names.

    Raises:
        FetchError: no place has the file; the message says what to put where by hand.
        CaptionerError: the mirror is no folder, or the disk is full.
    """
    destination = Path(destination)
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise CaptionerError(f"{name}: url {url}: only http and https addresses are fetched")
    # resolve: where the destination is a link, pieces must lie on the disk that it leads to
    target = destination.resolve() / name
    pieces = target.parent.parent / f".{target.parent.name}-partial"
    target.parent.mkdir(parents=True, exist_ok=True)
    pieces.mkdir(exist_ok=True)
    with FileLock(pieces / f"{name}.lock"):
        found = find_in_mirror(name, mirror, sha256)
        if found is not None:
            _copy(found, target, sha256)
        elif not (target.exists() and sha256 in (None, _sha256(target))):
            _download(name, urls, target, pieces, sha256)
    return destination / name


def _by_hand(failures: Sequence[FetchError]) -> str:
    what = "; ".join(f"{f.name} ({', '.join(f.problems) or 'no url known'})" for f in failures)
    names = ", ".join(failure.name for failure in failures)
    return (
        f"could not fetch {what}. By hand: put {names} into any folder and run again with "
        f"{MIRROR_VARIABLE}=FOLDER"
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


def _download(
    name: str, urls: Sequence[str], target: Path, pieces: Path, sha256: str | None
) -> None:
    problems = []
    for url in urls:
        tag = hashlib.sha256(url.encode()).hexdigest()[:8]
        partial = pieces / f"{name}.{tag}.partial"  # never one url's bytes after another's
        try:
            transfer(url, name, partial)
            _verify(partial, name, sha256)
        except Unreachable as error:
            problems.append(f"{url}: {error}")
            continue
        partial.replace(target)
        version_file(partial).unlink(missing_ok=True)
        log.info("%s: downloaded from %s, sha256 %s", name, url, _sha256(target))
        return
    raise FetchError(name, problems)


def _verify(partial: Path, name: str, sha256: str | None) -> None:
    """Delete what is not the file: a page of HTML, no zip, or another checksum."""
    with partial.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) and not name.endswith(".html"):
        problem = WEB_PAGE
    elif name.endswith(".zip") and not head.startswith(b"pk"):
        problem = "no zip archive"
    elif sha256 is not None and (actual := _sha256(partial)) != sha256:
        problem = f"wrong checksum: sha256 {actual}, published {sha256}"
    else:
        return
    partial.unlink()
    version_file(partial).unlink(missing_ok=True)
    raise Unreachable(problem)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
