"""Hostile requests to the web app on 127.0.0.1, with /health asked all along.

An answer of status 500, a traceback in the log, a file named by its URL that is accepted, a
connection to the listener that stands for somebody else's machine, a /health that takes seconds:
each is a failure of the request that was on its way.
"""

import base64
import contextlib
import http.client
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from benchmarks.reliability import commands, indexes
from benchmarks.reliability.cases import MEMORY, Log, Outcome, Outside, Wrong
from benchmarks.reliability.images import hostile, seeds
from benchmarks.reliability.mutations import mutate
from benchmarks.reliability.workers import peak_memory

COUNT = 300
SECONDS = 30  # that an answer may take
PATIENCE = 2  # seconds after which a connection with half a request is given up
HEALTHY = 5  # seconds that /health may take
SECRET = "what no stranger may read"
PATHS = [
    "/", "/config", "/theme.css", "/health", "/api/map.json", "/api/map.jpg", "/pictures/0.jpg",
    "/pictures/-1.jpg", "/pictures/99999999999999999999.jpg", "/gradio_api/file={secret}",
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=..%2f..%2fsecret.txt", "/gradio_api/info",
    "/gradio_api/proxy=http://127.0.0.1:{canary}/", "/gradio_api/file=http://127.0.0.1:{canary}/",
    "/static/..%2f..%2f..%2f..%2fetc/passwd", "/gradio_api/queue/data?session_hash=x", "/login",
    "/gradio_api/upload_progress?upload_id=x", "/gradio_api/heartbeat/x", "/" + "a" * 60_000,
    "/%00", "/%ff%fe", "//127.0.0.1:{canary}/", "/api/search?sentence=" + "%00" * 90, "/docs",
]  # fmt: skip
NUMBERS = ["nan", "inf", "-1", "0", "1e400", "9" * 400, "0.5", "1", "2", "%00", "x", "", "1;2", "²"]


class Server:
    """`captioner app` with a tiny bundle and a collection; started again where it died."""

    def __init__(self, folder: Path, bundle: Path):
        self.folder, self.bundle = commands.fresh(folder), bundle
        (folder / "secret.txt").write_text(SECRET, "utf-8")
        indexes.draw_pictures(folder / "pictures", 12)
        options = ["pictures", "--index", "index", "--bundle", bundle]
        ran = commands.run([*commands.CAPTIONER, "index", "add", *options], folder)
        if ran.code != 0:
            raise SystemExit(f"reliability: no collection for the app: {ran.err}")
        self.start()

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.temporary = commands.fresh(self.folder / "tmp")
        options = ["--bundle", self.bundle, "--index", "index", "--feedback", "feedback"]
        command = [*commands.CAPTIONER, "app", "--port", self.port, *options]
        env = commands.environment(TMPDIR=str(self.temporary))
        self.started = commands.Started(command, self.folder, env)
        for _ in range(3000):
            if not self.started.running():
                raise SystemExit(f"reliability: the app ended: {self.started.wait().err[-2000:]}")
            if self.health(1) is not None:
                return
            time.sleep(0.1)
        raise SystemExit("reliability: the app does not answer")

    def health(self, seconds: float) -> float | None:
        """How long /health took; None where it did not answer 200 in time."""
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(connection),
        ):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return time.monotonic() - start
        return None

    def config(self) -> list[dict]:
        """Gradio's events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/config")
        found = json.loads(connection.getresponse().read())["dependencies"]
        connection.close()
        return found

    def send(self, data: bytes, seconds: float) -> tuple[int | None, bytes]:
        """Status and beginning of the answer to raw bytes; None: closed without one.

        Raises:
            TimeoutError: neither an answer nor an end.
        """
        with socket.create_connection(("127.0.0.1", self.port), seconds) as line:
            answer = b""
            with contextlib.suppress(ConnectionError):
                line.sendall(data)
                while len(answer) < 200_000 and (piece := line.recv(65536)):
                    answer += piece
                    if b"text/event-stream" in answer:  # it stays open
                        break
        found = re.match(rb"HTTP/1\.\d (\d{3})", answer)
        return (int(found[1]) if found else None), answer


class _Watch:
    """Asks for /health until it is told to stop, and listens as somebody else's machine."""

    def __init__(self, server: Server):
        self.server, self.slow, self.visited, self._end = server, 0.0, False, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.canary = self._listening.getsockname()[1]
        for work in (self._ask, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def _ask(self) -> None:
        while not self._end.wait(0.3):
            taken = self.server.health(SECONDS)
            self.slow = max(self.slow, SECONDS if taken is None else taken)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                line.close()
                self.visited = True

    def stop(self) -> None:
        self._end.set()
        self._listening.close()


def run(log: Log, share: float, seed: int, scratch: Path, bundle: Callable[[], Path]) -> None:
    """All requests that are not done yet, one after another; the last case is the server's end."""
    count = max(1, round(COUNT * share))
    cases = log.missing("requests", range(count + 1))
    if not cases:
        return
    folder = scratch / "requests"
    server = Server(folder / "app", bundle())
    watch, events, kept = _Watch(server), server.config(), folder / "kept"
    for case in tqdm(cases, "requests", disable=None):
        if case == count:
            break
        if not server.started.running():
            server.start()
        rng = np.random.default_rng([seed, case, *b"requests"])
        what, data = _request(rng, server, watch.canary, events)
        (commands.fresh(kept) / "request.bin").write_bytes(data)
        log.add(_judge(case, what, data, server, watch), kept)
    watch.stop()
    log.add(_end(count, server), kept)


def _judge(case: int, what: str, data: bytes, server: Server, watch: _Watch) -> Outcome:
    start, verdict, detail = time.monotonic(), "ok", ""
    before = len(server.started.errors())
    watch.slow, watch.visited = 0.0, False
    try:
        # Of what is no whole request the server may wait for the rest, which never comes.
        whole = not what.startswith(("raw", "promise", "chunks"))
        try:
            status, answer = server.send(data, SECONDS if whole else PATIENCE)
        except TimeoutError:
            if whole:
                raise
            status, answer = None, b""
        what += f": {status}"
        if status == 500:
            raise Wrong(f"500: {answer[-300:]!r}")
        if SECRET.encode() in answer or b"root:x:" in answer:
            raise Outside("a file of the server was shown")
        if b'"url": "' in data and status is not None and status < 400 and "as it is" in what:
            raise Outside("a file named by its URL was accepted")
    except Wrong as error:
        verdict, detail = "wrong", str(error)
    except Outside as error:
        verdict, detail = "outside", str(error)
    except TimeoutError:
        verdict, detail = "hang", f"no answer within {SECONDS} s"
    except OSError as error:
        verdict, detail = "wrong", f"no connection: {error}"
    said = server.started.errors()[before:]
    if not server.started.running():
        verdict, detail = "traceback", f"the server ended: {said[-2000:]}"
    elif verdict in ("ok", "wrong") and commands.TRACEBACK in said:
        verdict, detail = "traceback", said[-2000:]
    elif verdict == "ok" and watch.visited:
        verdict, detail = "outside", "the server connected to another one"
    elif verdict == "ok" and watch.slow > HEALTHY:
        verdict, detail = "hang", f"/health took {watch.slow:.1f} s"
    peak = peak_memory(server.started.process.pid) if server.started.running() else 0
    if verdict == "ok" and peak > MEMORY:
        verdict, detail = "memory", f"{peak / 1e6:.0f} MB"
    seconds = round(time.monotonic() - start, 2)
    return Outcome("requests", case, what, verdict, detail, seconds, peak)


def _end(case: int, server: Server) -> Outcome:
    """SIGTERM: it ends, and nothing that was uploaded stays."""
    start = time.monotonic()
    server.started.process.terminate()
    ran = server.started.wait(60)
    left = sorted(path.name for path in server.temporary.glob("captioner-app-*"))
    verdict, detail = "ok", ""
    if ran.code is None:
        verdict, detail = "hang", "no end 60 s after SIGTERM"
    elif left:
        verdict, detail = "wrong", f"left in the temporary folder: {left}"
    shutil.rmtree(server.temporary, ignore_errors=True)
    seconds = time.monotonic() - start
    return Outcome("requests", case, "SIGTERM of the app", verdict, detail, seconds, ran.peak)


def _request(
    rng: np.random.Generator, server: Server, canary: int, events: list[dict]
) -> tuple[str, bytes]:
    kinds = ("path", "picture", "search", "upload", "event", "event", "raw", "crowd")
    kind = str(rng.choice(kinds))
    if kind == "path":
        path = PATHS[rng.integers(len(PATHS))]
        path = path.format(secret=server.folder / "secret.txt", canary=canary)
        method = str(rng.choice(["GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "X" * 90]))
        return f"{method:.9} {path:.60}", _http(method, path, server.port)
    if kind == "picture":
        _, picture, done = hostile(rng)
        names = rng.choice(
            ["number", "beam", "length", "top_p", "seed", "top", "blend"], rng.integers(3)
        )
        query = "&".join(f"{name}={NUMBERS[rng.integers(len(NUMBERS))]}" for name in names)
        path = f"/api/{rng.choice(['caption', 'similar'])}?{quote(query, '=&%')}"
        return f"picture {done}, {query:.60}", _http("POST", path, server.port, picture)
    if kind == "search":
        sentence = b"a red circle" if rng.integers(2) else rng.bytes(int(rng.integers(1, 400)))
        path = f"/api/search?sentence={quote(sentence)}&top={NUMBERS[rng.integers(5, 10)]}"
        return "search", _http("GET", path, server.port)
    if kind == "upload":
        _, picture, done = hostile(rng)
        name = str(rng.choice(["a.png", "../../a.png", "/etc/x.png", "a\0b.png", "x" * 3000, ""]))
        body = _form([(name, picture)] * int(rng.choice([1, 1, 3, 9])))
        if rng.integers(2):
            body, faults = mutate(body, rng, [body])
            done += f", form {faults}"
        form = {"Content-Type": "multipart/form-data; boundary=part"}
        return f"upload {done}", _http("POST", "/gradio_api/upload", server.port, body, form)
    if kind == "event":
        return _event(rng, server, canary, events)
    if kind == "crowd":
        return _crowd(rng, server.port)
    data = _http("POST", "/api/caption?number=2", server.port, seeds()[5][1])
    data, faults = mutate(data[:400] if rng.integers(2) else data, rng, [b"\r\n\r\n", data])
    return f"raw {faults}", data


def _event(
    rng: np.random.Generator, server: Server, canary: int, events: list[dict]
) -> tuple[str, bytes]:
    """An event of the page with a picture that is named in some other way than by its upload."""
    picture = base64.b64encode(hostile(rng)[1]).decode()
    urls = [
        None, f"data:image/png;base64,{picture}", f"http://127.0.0.1:{canary}/a.png",
        f"file://{server.folder}/secret.txt", f"data:application/postscript;base64,{picture}",
    ]  # fmt: skip
    paths = [None, None, str(server.folder / "secret.txt"), "/etc/passwd", "../secret.txt", "a\0b"]
    url, path = urls[rng.integers(len(urls))], paths[rng.integers(len(paths))]
    file = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
    if rng.integers(4) == 0:
        del file["path"]
    known = [event["id"] for event in events]
    function = int(rng.choice(known)) if rng.integers(3) else int(rng.choice([-1, 999, 2**31]))
    inputs = next((len(event["inputs"]) for event in events if event["id"] == function), 1)
    others = [None, 1e300, "x" * 300, [], {"a": []}, -1]
    values = [file, *(others[rng.integers(len(others))] for _ in range(max(0, inputs - 1)))]
    event_data = others[rng.integers(len(others))]
    body = {"data": values, "fn_index": function, "session_hash": "s", "event_data": event_data}
    data = json.dumps(body).encode()
    what = f"event {function} with path {path!r:.20} and url {url!r:.24}"
    if rng.integers(3) == 0:
        data, faults = mutate(data, rng, [data])
        what += f", {faults}"
    else:
        what += ", as it is"
    form = {"Content-Type": "application/json"}
    return what, _http("POST", "/gradio_api/queue/join", server.port, data, form)


def _crowd(rng: np.random.Generator, port: int) -> tuple[str, bytes]:
    """Small things in masses, and more bytes promised than sent."""
    kind = str(rng.choice(["parts", "objects", "promise", "headers", "chunks", "depth"]))
    form = {"Content-Type": "multipart/form-data; boundary=part"}
    if kind == "parts":
        return kind, _http(
            "POST", "/gradio_api/upload", port, _form([("a.png", b"")] * 20_000), form
        )
    if kind == "objects":
        body = b'{"data": [' + b"{}," * 500_000 + b"{}]}"
        return kind, _http("POST", "/gradio_api/queue/join", port, body)
    if kind == "depth":
        return kind, _http("POST", "/gradio_api/queue/join", port, b"[" * 200_000)
    if kind == "headers":
        more = {f"X-{number}": "x" * 50 for number in range(5000)}
        return kind, _http("GET", "/", port, None, more)
    if kind == "chunks":
        head = _http("POST", "/api/caption", port, None, {"Transfer-Encoding": "chunked"})
        return kind, head + b"1\r\nx\r\n" * 20_000 + b"fffffffff\r\n"
    return kind, _http("POST", "/api/caption", port, b"x", {"Content-Length": "19000000"})


def _form(files: list[tuple[str, bytes]]) -> bytes:
    lines = [
        b'--part\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in files
    ]
    return b"".join(lines) + b"--part--\r\n"


def _http(
    method: str, path: str, port: int, body: bytes | None = None, more: dict | None = None
) -> bytes:
    headers = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    if body is not None:
        headers["Content-Length"] = str(len(body))
    lines = [f"{name}: {value}" for name, value in (headers | (more or {})).items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + (body or b"")
