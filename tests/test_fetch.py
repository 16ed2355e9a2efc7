"""Fetching from a mirror folder and from a server on this machine that misbehaves on request."""

import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from captioner import CaptionerError, fetch, transfer
from captioner.fetch import FetchError, RemoteFile, fetch_all

ROOT = Path(__file__).resolve().parent.parent


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("words.txt", bytes(range(256)) * 4000)
    return stream.getvalue()


CONTENT = _zip()  # 1 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to misbehave; `server.requests` is the log."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        asked = self.headers.get("Range")
        self.server.requests.append((kind, asked, self.headers.get("If-Range")))
        getattr(self, f"get_{kind}")(asked)

    def send(self, data: bytes, code: int = 200, **headers: str) -> None:
        """Send `data`; a larger Content-Length leaves the client with too little."""
        self.send_response(code)
        headers = {"Content_Length": str(len(data)), "Content_Type": "application/zip"} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def send_rest(self, asked: str | None, etag: str, stop: int | None = None) -> None:
        """What a good server answers to Range and If-Range; `stop` breaks the connection there."""
        start = 0
        if asked and self.headers.get("If-Range") in (None, etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            return self.send(b"", 416, Content_Range=f"bytes */{len(CONTENT)}")
        headers = {"ETag": etag, "Content_Length": str(len(CONTENT) - start)}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.send(CONTENT[start:stop], 206 if start else 200, **headers)

    def get_good(self, asked: str | None) -> None:
        self.send_rest(asked, '"v1"')

    def get_updated(self, asked: str | None) -> None:
        self.send_rest(asked, '"v2"')

    def get_breaking(self, asked: str | None) -> None:
        """Breaks off after 300,000 bytes and, resumed, after 600,000."""
        stop = {0: 300_000, 1: 600_000}.get(self.server.broken)
        self.server.broken += 1
        self.send_rest(asked, '"v1"', stop)

    def get_dead(self, asked: str | None) -> None:
        """Never gets beyond 1,000 bytes."""
        start = 1000 if asked else 0
        headers = (
            {"Content_Range": f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"} if asked else {}
        )
        headers["Content_Length"] = str(len(CONTENT) - start)
        self.send(CONTENT[start:1000], 206 if asked else 200, **headers)

    def get_wholly(self, asked: str | None) -> None:
        self.send(CONTENT)

    def get_elsewhere(self, asked: str | None) -> None:
        """Resumes at a place that nobody asked for."""
        if asked:
            total = len(CONTENT)
            self.send(CONTENT[7:], 206, Content_Range=f"bytes 7-{total - 1}/{total}")
        else:
            self.send(CONTENT)

    def get_other(self, asked: str | None) -> None:
        self.send(CONTENT[:-1] + b"!")

    def get_page(self, asked: str | None) -> None:
        self.send(b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html; charset=utf-8")

    def get_hiddenpage(self, asked: str | None) -> None:
        self.send(b"\n <HTML>quota exceeded</HTML>")

    def get_nozip(self, asked: str | None) -> None:
        self.send(b"Rar!")

    def get_text(self, asked: str | None) -> None:
        self.send(b"quota exceeded, come back tomorrow", Content_Type="application/octet-stream")

    def get_empty(self, asked: str | None) -> None:
        self.send(b"", 204)

    def get_confirm(self, asked: str | None) -> None:
        """What file-sharing services show before a large file, under the type of the file."""
        self.send(b"\xef\xbb\xbf\n<!DOCTYPE html><p>too large to scan for viruses", 200)

    def get_error(self, asked: str | None) -> None:
        self.send(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 200)

    def get_huge(self, asked: str | None) -> None:
        self.send(CONTENT, Content_Length=str(10**15))

    def get_nonsense(self, asked: str | None) -> None:
        """A length that is no number, then the file and the end of the connection."""
        self.send(CONTENT, Content_Length="\xb2" * 20)

    def get_generous(self, asked: str | None) -> None:
        """More than the announced length."""
        self.send(CONTENT + b"more", Content_Length=str(len(CONTENT)))

    def get_generousrest(self, asked: str | None) -> None:
        """Resumes well, but what comes is longer than the file is said to be."""
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        last = len(CONTENT) - 1
        self.send(CONTENT[start:] * 20, 206, Content_Range=f"bytes {start}-{last}/{len(CONTENT)}")

    def get_starred(self, asked: str | None) -> None:
        """Does not know the whole length, and breaks off the first rest that is asked for."""
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.server.broken += 1
        stop = 700_000 if self.server.broken == 1 else None
        rest = str(len(CONTENT) - start)
        extent = f"bytes {start}-{len(CONTENT) - 1}/*"
        self.send(CONTENT[start:stop], 206, Content_Range=extent, Content_Length=rest)

    def get_unasked(self, asked: str | None) -> None:
        """A middle part that nobody asked for, once."""
        self.server.broken += 1
        if self.server.broken > 1:
            return self.send(CONTENT)
        self.send(CONTENT[9:], 206, Content_Range=f"bytes 9-{len(CONTENT) - 1}/{len(CONTENT)}")

    def get_unsatisfied(self, asked: str | None) -> None:
        self.send(b"", 416, Content_Range="bytes */7")

    def get_endless(self, asked: str | None) -> None:
        """Chunks that never end."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:  # until the client has had enough and hangs up
            self.wfile.write(b"10000\r\n" + b"PK" + bytes(2**16 - 2) + b"\r\n")

    def get_halting(self, asked: str | None) -> None:
        """Sends 600,000 bytes, then nothing until the test is over; resumed, it goes on well."""
        if asked:
            return self.send_rest(asked, '"v1"')
        self.send(CONTENT[:600_000], ETag='"v1"', Content_Length=str(len(CONTENT)))
        self.server.second.wait(30)

    def get_moved(self, asked: str | None) -> None:
        self.send(b"", 302, Location="/good/words.zip")

    def get_loop(self, asked: str | None) -> None:
        self.send(b"", 302, Location="/loop/words.zip")

    def get_chain(self, asked: str | None) -> None:
        number = int(self.path.split("/")[2])
        self.send(b"", 302, Location=f"/chain/{number + 1}/words.zip")

    def get_tofile(self, asked: str | None) -> None:
        self.send(b"", 302, Location="file:///etc/hostname")

    def get_tonowhere(self, asked: str | None) -> None:
        self.send(b"", 302, Location="http://[oops/words.zip")

    def get_toftp(self, asked: str | None) -> None:
        self.send(b"", 302, Location="ftp://127.0.0.1/words.zip")

    def get_busy(self, asked: str | None) -> None:
        """Busy twice, then well."""
        if sum(kind == "busy" for kind, *_ in self.server.requests) <= 2:
            self.send(b"", 503)
        else:
            self.get_good(asked)

    def get_slow(self, asked: str | None) -> None:
        """Holds the first answer until somebody asks a second time, but no longer than a second."""
        if sum(kind == "slow" for kind, *_ in self.server.requests) > 1:
            self.server.second.set()
        self.server.second.wait(1)
        self.get_good(asked)

    def get_silent(self, asked: str | None) -> None:
        self.server.second.wait(10)  # until the test is over

    def get_missing(self, asked: str | None) -> None:
        self.send(b"", 404)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.broken = 0
        self.second = threading.Event()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/words.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client went away: that is what some tests are about


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.second.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No mirror, no proxy, no waiting between attempts."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.0)


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "data" / "raw"


def get(
    server: Server, raw: Path, *kinds: str, sha256: str | None = SHA256, name: str = "words.zip"
) -> bytes:
    urls = tuple(server.url(kind) for kind in kinds)
    path = fetch.fetch(RemoteFile(name, urls, sha256), raw)
    assert path == raw / name
    assert [entry.name for entry in raw.iterdir()] == [name]  # no pieces, no locks
    return path.read_bytes()


def pieces(raw: Path) -> list[Path]:
    return sorted((raw.parent / ".raw-partial").glob("*.partial"))


def broken_off(server: Server, raw: Path, kind: str, length: int, version: str | None) -> Path:
    """The piece that an earlier run left behind."""
    folder = raw.parent / ".raw-partial"
    folder.mkdir(parents=True)
    tag = hashlib.sha256(server.url(kind).encode()).hexdigest()[:8]
    piece = folder / f"words.zip.{tag}.partial"
    piece.write_bytes(CONTENT[:length])
    if version:
        transfer.version_file(piece).write_text(version)
    return piece


def test_download_verified_and_put_in_place(server, raw):
    assert get(server, raw, "good") == CONTENT
    assert pieces(raw) == []
    assert get(server, raw, "good") == CONTENT  # there already: not asked for again
    assert server.requests == [("good", None, None)]


def test_a_wrong_file_in_place_is_replaced(server, raw):
    raw.mkdir(parents=True)
    (raw / "words.zip").write_bytes(b"something else")
    assert get(server, raw, "good") == CONTENT


def test_resumes_where_an_earlier_run_stopped(server, raw):
    broken_off(server, raw, "good", 400_000, '"v1"')
    assert get(server, raw, "good") == CONTENT
    assert server.requests == [("good", "bytes=400000-", '"v1"')]


def test_begins_again_when_the_file_has_changed_since(server, raw):
    broken_off(server, raw, "updated", 400_000, '"v1"').write_bytes(b"old" * 100_000)
    assert get(server, raw, "updated", sha256=None) == CONTENT
    assert server.requests == [("updated", "bytes=300000-", '"v1"')]


def test_begins_again_when_the_server_ignores_range(server, raw):
    broken_off(server, raw, "wholly", 400_000, None)
    assert get(server, raw, "wholly") == CONTENT
    assert server.requests == [("wholly", "bytes=400000-", None)]


def test_begins_again_when_the_server_resumes_elsewhere(server, raw):
    broken_off(server, raw, "elsewhere", 400_000, None)
    assert get(server, raw, "elsewhere") == CONTENT
    assert [asked for _, asked, _ in server.requests] == ["bytes=400000-", None]


def test_a_complete_piece_is_only_put_in_place(server, raw):
    broken_off(server, raw, "good", len(CONTENT), '"v1"')
    assert get(server, raw, "good") == CONTENT


def test_a_piece_longer_than_the_file_is_thrown_away(server, raw):
    broken_off(server, raw, "good", len(CONTENT), '"v1"').write_bytes(CONTENT + b"more")
    assert get(server, raw, "good") == CONTENT
    assert len(server.requests) == 2


def test_broken_connections_are_taken_up_again(server, raw):
    assert get(server, raw, "breaking") == CONTENT
    assert [asked for _, asked, _ in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


def test_a_server_that_always_breaks_is_given_up_but_the_piece_is_kept(server, raw):
    with pytest.raises(FetchError, match=r"connection broken after 1000 of \d+ bytes \(6 attempts"):
        get(server, raw, "dead")
    assert len(server.requests) == 7  # the first brought 1000 bytes, six more brought none
    assert [piece.stat().st_size for piece in pieces(raw)] == [1000]


def test_a_silent_server_is_given_up(server, raw, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.05)
    with pytest.raises(FetchError, match="timed out"):
        get(server, raw, "silent")


def test_a_busy_server_is_asked_again(server, raw):
    assert get(server, raw, "busy") == CONTENT
    assert len(server.requests) == 3


def test_wrong_checksum_is_deleted_and_the_next_url_is_tried(server, raw):
    assert get(server, raw, "other", "good") == CONTENT
    assert pieces(raw) == []


def test_wrong_checksum_everywhere(server, raw):
    with pytest.raises(
        FetchError, match=f"wrong checksum: sha256 [0-9a-f]{{64}}, published {SHA256}"
    ):
        get(server, raw, "other")
    assert not (raw / "words.zip").exists()
    assert pieces(raw) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("page", "a web page instead of the file"),
        ("hiddenpage", "a web page instead of the file"),
        ("nozip", "no zip archive"),
        ("text", "no zip archive"),
        ("confirm", "a web page instead of the file"),
        ("error", "a web page instead of the file"),
        ("empty", "an empty answer"),
        ("unsatisfied", "the server cannot resume"),
        ("missing", "HTTP 404 Not Found"),
        ("loop", "HTTP 302 .*infinite loop"),
        ("tofile", "HTTP 302"),
        ("tonowhere", "bad address"),
        ("toftp", "HTTP 302 redirect to ftp://127.0.0.1/words.zip refused"),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, raw, kind, message):
    with pytest.raises(FetchError, match=message) as caught:
        get(server, raw, kind, sha256=None)
    assert "\n" not in str(caught.value)
    assert list(raw.iterdir()) == []
    assert pieces(raw) == []
    assert get(server, raw, kind, "good", sha256=None) == CONTENT  # the next url is tried


@pytest.mark.parametrize(
    ("name", "good", "problem"),
    [
        ("words.npz", CONTENT, "no npz archive"),
        ("words.tar.gz", b"\x1f\x8b\x08 packed", "no gzip file"),
        ("words.tgz", b"\x1f\x8b\x08 packed", "no gzip file"),
        ("words.json", b'\xef\xbb\xbf\n{"images": []}', "no JSON file"),
        ("words.json", b" [1, 2]", "no JSON file"),
        ("words.token", b"a.jpg#0\tA dog .", None),
    ],
)
def test_a_file_must_begin_as_its_kind_does(server, raw, monkeypatch, name, good, problem):
    with pytest.raises(FetchError, match="a web page instead of the file"):
        get(server, raw, "confirm", sha256=None, name=name)
    if problem is not None:
        with pytest.raises(FetchError, match=problem):
            get(server, raw, "text", sha256=None, name=name)
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", good)
    assert get(server, raw, "text", "wholly", sha256=hash_of(good), name=name) == good


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_redirects_are_followed_but_not_for_ever(server, raw):
    assert get(server, raw, "moved") == CONTENT
    (raw / "words.zip").unlink()
    with pytest.raises(FetchError, match="HTTP 302"):
        get(server, raw, "chain/0")
    assert sum(kind == "chain" for kind, *_ in server.requests) == transfer.MAX_REDIRECTS + 1


def test_https_is_not_left_for_http():
    handler = transfer._Redirects()
    request = transfer.urllib.request.Request("https://a.example/words.zip")
    with pytest.raises(transfer.urllib.error.HTTPError, match="refused") as caught:
        handler.redirect_request(request, None, 302, "Found", {}, "http://a.example/words.zip")
    caught.value.close()
    onward = handler.redirect_request(request, None, 302, "Found", {}, "https://b.example/w.zip")
    assert onward.full_url == "https://b.example/w.zip"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/words.zip", "words.zip"])
def test_only_http_addresses(raw, url):
    with pytest.raises(CaptionerError, match="only http and https"):
        fetch.fetch(RemoteFile("words.zip", (url,)), raw)


def test_no_connection(raw):
    with Server() as closed:
        url = closed.url("good")
    with pytest.raises(FetchError, match=r"refused\)"):
        fetch.fetch(RemoteFile("words.zip", (url,)), raw)


def test_a_network_that_is_gone_in_the_middle_is_waited_for(raw):
    with Server() as closed:
        url = closed.url("good")
    piece = broken_off(closed, raw, "good", 1000, None)
    with pytest.raises(FetchError, match=r"refused \(6 attempts\)"):
        fetch.fetch(RemoteFile("words.zip", (url,)), raw)
    assert piece.read_bytes() == CONTENT[:1000]


def test_all_that_is_missing_is_named_once_with_the_remedy(server, raw):
    files = [
        RemoteFile("a.zip", (server.url("missing"), server.url("page"))),
        RemoteFile("words.zip", (server.url("good"),), SHA256),
        RemoteFile("b.zip", (server.url("missing"),)),
        RemoteFile("c.tar.gz", (), page="https://c.example/", other_names=("c.tar", "c.zip")),
    ]
    with pytest.raises(CaptionerError) as caught:
        fetch_all(files, raw)
    message = str(caught.value)
    assert (
        "By hand: put a.zip, b.zip, c.tar.gz (or c.tar, c.zip; ask for it at https://c.example/) "
        "into any folder and run again with CAPTIONER_MIRROR=FOLDER" in message
    )
    assert message.count("HTTP 404") == 2
    assert "c.tar.gz (no url known)" in message
    assert "\n" not in message
    assert (raw / "words.zip").read_bytes() == CONTENT  # the next run needs the other two only


def test_pieces_of_the_urls_that_failed_are_removed_in_the_end(server, raw):
    assert get(server, raw, "dead", "good") == CONTENT
    assert sorted(entry.name for entry in (raw.parent / ".raw-partial").iterdir()) in (
        ["words.zip.lock"],
        [],  # some versions of filelock delete the file of a lock
    )


def test_a_file_larger_than_the_free_disk_is_refused_before_it_is_downloaded(server, raw):
    message = r"words\.zip: needs 1,000,000,000,000,000 bytes more in .*-partial, where [\d,]+ are"
    with pytest.raises(CaptionerError, match=message) as caught:
        get(server, raw, "huge", "good")
    assert not isinstance(caught.value, FetchError)  # no other url has a smaller one
    assert pieces(raw) == []


def test_a_copy_larger_than_the_free_disk_is_refused(raw, mirror):
    with (mirror / "words.zip").open("wb") as file:
        file.truncate(8 * 10**12)  # a file with a hole takes no room
    if shutil.disk_usage(mirror).free > 8 * 10**12:
        pytest.skip("more than 8 TB are free here")
    with pytest.raises(CaptionerError, match=r"words\.zip: needs 8,000,000,000,000 bytes more"):
        fetch.fetch(RemoteFile("words.zip", ()), raw)
    assert list(raw.iterdir()) == []


def test_a_length_that_is_no_number_is_no_length(server, raw):
    assert get(server, raw, "nonsense") == CONTENT


def test_what_comes_after_the_announced_end_is_cut_off(server, raw):
    assert get(server, raw, "generous") == CONTENT


def test_a_rest_longer_than_announced_is_not_kept(server, raw):
    broken_off(server, raw, "generousrest", 400_000, None)
    with pytest.raises(FetchError, match=f"more than {len(CONTENT)} bytes came"):
        get(server, raw, "generousrest")
    assert pieces(raw) == []


def test_an_endless_answer_is_given_up(server, raw, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_UNANNOUNCED", 1_000_000)
    with pytest.raises(FetchError, match=r"no end after 1\d{6} bytes"):
        get(server, raw, "endless")
    assert pieces(raw) == []


def test_the_end_of_a_rest_is_known_where_the_whole_length_is_not(server, raw):
    broken_off(server, raw, "starred", 400_000, None)
    assert get(server, raw, "starred", sha256=None) == CONTENT
    assert [asked for _, asked, _ in server.requests] == ["bytes=400000-", "bytes=700000-"]


def test_a_part_that_nobody_asked_for(server, raw):
    assert get(server, raw, "unasked") == CONTENT


def test_a_destination_that_cannot_be(server, raw):
    raw.parent.write_text("a file where the folder should be")
    with pytest.raises(CaptionerError, match=r"data/raw: cannot write"):
        get(server, raw, "good")


def run_fetch(server: Server, raw: Path, kind: str, before: str = "", **options) -> Popen:
    """Another process that fetches words.zip."""
    code = (
        f"import sys; {before}\nfrom captioner import CaptionerError, fetch, transfer\n"
        f"file = fetch.RemoteFile('words.zip', ({server.url(kind)!r},), {SHA256!r})\n"
        "try: fetch.fetch(file, sys.argv[1])\n"
        "except CaptionerError as error: sys.exit(str(error))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return Popen([sys.executable, "-c", code, str(raw)], env=environment, **options)


def test_a_disk_that_fills_up_is_an_error_and_the_piece_is_kept(server, raw):
    resource = pytest.importorskip("resource")  # a limit to the size of files acts as a full disk
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, {resource.RLIM_INFINITY}))"
    limit = f"import resource; {limit}"
    with run_fetch(server, raw, "good", limit, stderr=PIPE, text=True) as process:
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r".*\.partial: cannot write: File too large\n", message)
    assert [piece.stat().st_size for piece in pieces(raw)] == [500_000]
    assert get(server, raw, "good") == CONTENT
    assert [asked for _, asked, _ in server.requests] == [None, "bytes=500000-"]


def test_killed_in_the_middle_and_run_again(server, raw):
    with run_fetch(server, raw, "halting") as process:
        while not any(piece.stat().st_size >= 2 * transfer.CHUNK for piece in pieces(raw)):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert get(server, raw, "halting") == CONTENT
    assert server.requests[1:] == [("halting", f"bytes={2 * transfer.CHUNK}-", '"v1"')]


def test_a_terminal_shows_progress_rate_and_time_left(server, raw):
    termios = pytest.importorskip("termios")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with run_fetch(server, raw, "good", stderr=theirs) as process:
        assert process.wait(60) == 0
    shown = os.read(ours, 10_000).decode()
    os.close(theirs)
    os.close(ours)
    assert re.search(r"words\.zip: 100%.* 0.98M/0.98M \[\d\d:\d\d<\d\d:\d\d, .*B/s\]", shown)


def test_full_disk_is_no_network_error(server, raw):
    piece = broken_off(server, raw, "good", 0, None)
    piece.unlink()
    piece.mkdir()  # a folder in the place of the piece: it cannot be written
    with pytest.raises(CaptionerError, match=r"\.partial: cannot write"):
        get(server, raw, "good")


def test_two_processes_download_once(server, raw):
    both = [run_fetch(server, raw, "slow") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (raw / "words.zip").read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "mirror"
    (folder / "deep" / "er").mkdir(parents=True)
    monkeypatch.setenv("CAPTIONER_MIRROR", str(folder))
    return folder


def test_mirror_comes_first_and_is_searched_recursively(server, raw, mirror, caplog):
    (mirror / "deep" / "er" / "words.zip").write_bytes(CONTENT)
    caplog.set_level(logging.INFO)
    assert get(server, raw, "good") == CONTENT
    assert server.requests == []
    assert f"sha256 {SHA256}" in caplog.text
    assert "not the published" not in caplog.text


def test_mirror_may_hold_other_bytes_which_are_logged(server, raw, mirror, caplog):
    (mirror / "deep" / "words.zip").write_bytes(b"PK smaller")
    assert get(server, raw, "good") == b"PK smaller"
    actual = hashlib.sha256(b"PK smaller").hexdigest()
    assert f"not the published file (sha256 {SHA256})" in caplog.text
    assert f"accepted from CAPTIONER_MIRROR with sha256 {actual}" in caplog.text


def test_mirror_with_several_copies(raw, mirror):
    (mirror / "deep" / "er" / "words.zip").write_bytes(CONTENT)
    (mirror / "deep" / "words.zip").write_bytes(b"outer")
    (mirror / "aaa").mkdir()
    (mirror / "aaa" / "words.zip").write_bytes(b"outer and first")
    files = [RemoteFile("words.zip", (), sha256) for sha256 in (None, SHA256)]
    assert [fetch.fetch(file, raw).read_bytes() for file in files] == [
        b"outer and first",
        CONTENT,
    ]  # without, and with, a published checksum


def test_mirror_changed_since_the_last_run(raw, mirror):
    for content in (b"one", b"two"):
        (mirror / "words.zip").write_bytes(content)
        assert fetch.fetch(RemoteFile("words.zip", ()), raw).read_bytes() == content


def test_mirror_with_another_packing(raw, mirror):
    file = RemoteFile("words.tar.gz", (), SHA256, other_names=("words.tar", "words.zip"))
    (mirror / "deep" / "words.zip").write_bytes(CONTENT)
    assert fetch.fetch(file, raw) == raw / "words.zip"
    (mirror / "words.tar").write_bytes(b"unpacked")
    assert fetch.fetch(file, raw) == raw / "words.tar"  # in the order of the names


def test_another_packing_in_place_is_kept(raw):
    raw.mkdir(parents=True)
    (raw / "words.zip").write_bytes(CONTENT)
    file = RemoteFile("words.tar.gz", (), SHA256, other_names=("words.zip",))
    assert fetch.fetch(file, raw) == raw / "words.zip"


def test_what_the_mirror_lacks_is_downloaded(server, raw, mirror):
    (mirror / "other.zip").write_bytes(CONTENT)
    assert get(server, raw, "good") == CONTENT


def test_mirror_given_as_argument_wins(raw, mirror, tmp_path):
    (mirror / "words.zip").write_bytes(b"one")
    (tmp_path / "words.zip").write_bytes(b"two")
    path = fetch.fetch(RemoteFile("words.zip", ()), raw, mirror=tmp_path)
    assert path.read_bytes() == b"two"


def test_mirror_that_is_no_folder(raw, monkeypatch):
    monkeypatch.setenv("CAPTIONER_MIRROR", "/nowhere/at/all")
    with pytest.raises(CaptionerError, match="CAPTIONER_MIRROR: /nowhere/at/all: no such folder"):
        fetch.fetch(RemoteFile("words.zip", ()), raw)


def test_unreadable_mirror_file_is_named(raw, mirror):
    (mirror / "words.zip").symlink_to(mirror / "gone.zip")
    with pytest.raises(CaptionerError, match=r"words\.zip: cannot copy"):
        fetch.fetch(RemoteFile("words.zip", ()), raw)


def test_module_needs_no_tensorflow_and_no_pandas():
    code = "import sys, captioner.fetch; print(sorted({'tensorflow', 'pandas'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"
