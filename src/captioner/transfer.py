"""Bring the bytes behind one url into one file, resuming where an earlier attempt broke off.

A piece on the disk is continued with a Range request (RFC 9110, section 14) that names the version
it belongs to (If-Range, section 13.1.5); a server that cannot resume, or has another version by
now, sends the whole file and the piece is begun again. What a server announces is a bound: a file
for which the disk has no room is refused before its first byte, and what goes on beyond its
announced end is cut off. Whether the bytes are the right ones is for `fetch` to say.
"""

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from captioner import CaptionerError, __version__

TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
ATTEMPTS = 6  # in a row that bring no new byte; with the pauses, a network may be gone for a minute
RETRY_SECONDS = 1.0  # pause after a broken connection; doubles with each that brought nothing
MAX_REDIRECTS = 5
MAX_UNANNOUNCED = 16 * 2**30  # bytes of an answer that does not say how long it is
CHUNK = 2**18  # bytes

WEB_PAGE = "a web page instead of the file (log-in or confirmation page?)"


class Unreachable(Exception):
    """This url will not give the file; another one may."""


class _Broken(Exception):
    """The connection broke or the server was busy; the same url may work in a moment."""


def transfer(url: str, name: str, partial: Path) -> None:
    """Bring `partial` to the full length of what `url` serves; `name` labels the progress bar.

    Raises:
        Unreachable: the url gives something else or nothing, also when asked again.
        CaptionerError: `partial` cannot be written (no permission), or is too large for the disk.
    """
    failures = 0
    while True:
        before = _length(partial)
        try:
            return _request(url, name, partial)
        except _Broken as error:
            failures = 0 if _length(partial) > before else failures + 1
            if failures == ATTEMPTS:
                raise Unreachable(f"{error} ({ATTEMPTS} attempts)") from None
            time.sleep(RETRY_SECONDS * 2**failures)


def version_file(partial: Path) -> Path:
    """Where the version of a piece is noted: its ETag, or when it was last modified."""
    return partial.with_suffix(".version")


def check_room(name: str, size: int, folder: Path) -> None:
    """Refuse to write `size` more bytes into `folder` than its disk has free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CaptionerError(
            f"{name}: needs {size:,} bytes more in {folder}, where {free:,} are free; make room on "
            "that disk and run again"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failing disk into an error for people; it must not look like a failing network."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(f"{path}: cannot write: {error.strerror or error}") from None


def _request(url: str, name: str, partial: Path) -> None:
    """One request: append the rest to `partial`, or all of it where the server cannot resume."""
    start = _length(partial)
    try:
        response = _open(url, start, version_file(partial))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return  # complete already: an earlier run ended just before the rename
        if error.code == 416:  # the piece is no beginning of what the server has now
            partial.unlink(missing_ok=True)
            raise _Broken("the server cannot resume") from None
        kind = _Broken if error.code >= 500 or error.code == 429 else Unreachable
        raise kind(" ".join(f"HTTP {error.code} {error.reason}".split())) from None
    except urllib.error.URLError as error:  # no connection at all: no name, no route, refused
        # with a piece in hand the address is right, and it is the network that is gone for now
        raise (_Broken if start else Unreachable)(str(error.reason)) from None
    except ValueError as error:  # a redirect to what is no address
        raise Unreachable(f"bad address: {error}") from None
    except (OSError, http.client.HTTPException) as error:  # connected, then cut off or silent
        raise _Broken(str(error) or type(error).__name__) from None
    with response:
        if response.headers.get_content_type() == "text/html" and not name.endswith(".html"):
            raise Unreachable(WEB_PAGE)
        start, total = _extent(response, start, partial)
        check_room(name, (total or 0) - _length(partial), partial.parent)
        _note_version(response, partial)
        length = _save(response, name, partial, start, total)
    if total is not None and length < total:
        raise _Broken(f"connection broken after {length} of {total} bytes")
    if length > (MAX_UNANNOUNCED if total is None else total):
        partial.unlink()
        raise Unreachable(
            f"no end after {length} bytes" if total is None else f"more than {total} bytes came"
        )


def _open(url: str, start: int, version: Path) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"captioner/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version.exists():  # the file may have changed at the server since the first piece
            headers["If-Range"] = version.read_text(encoding="latin-1")
    opener = urllib.request.build_opener(_Redirects)
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _extent(
    response: http.client.HTTPResponse, start: int, partial: Path
) -> tuple[int, int | None]:
    """(first byte, length of the whole file if known) of what the response holds."""
    if response.status != 206:
        return 0, _number(response.headers.get("Content-Length"))
    extent = response.headers.get("Content-Range", "")  # bytes FIRST-LAST/TOTAL
    span, _, total = extent.removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    if _number(first) != start or _number(last) is None:
        partial.unlink(missing_ok=True)
        raise _Broken("the server resumes at a wrong place")
    # the rest was asked for: where the server does not know the length (*), LAST is its end
    return start, _number(last) + 1 if _number(total) is None else _number(total)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def _note_version(response: http.client.HTTPResponse, partial: Path) -> None:
    version = response.headers.get("ETag", "")
    if not version.startswith('"'):  # a weak ETag (W/"...") does not promise equal bytes
        version = response.headers.get("Last-Modified", "")
    with writing(version_file(partial)):
        if version:
            version_file(partial).write_text(version, encoding="latin-1")
        else:
            version_file(partial).unlink(missing_ok=True)


def _save(
    response: http.client.HTTPResponse, name: str, partial: Path, start: int, total: int | None
) -> int:
    """Write the response into `partial` from the byte `start` on; return the file's length then.

    That is one chunk too long at most where more comes than `total` bytes.
    """
    limit = MAX_UNANNOUNCED if total is None else total
    bar = tqdm(
        desc=name,
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None,  # no bar where stderr is no terminal
    )
    with bar, writing(partial), partial.open("ab") as file:
        file.truncate(start)
        length = start
        while length <= limit and (chunk := _read(response)):
            file.write(chunk)
            length += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return length


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow few redirects, never away from http(s), never from https back to http."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or urlsplit(req.full_url).scheme == "https"):
            raise urllib.error.HTTPError(newurl, code, f"redirect to {newurl} refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
