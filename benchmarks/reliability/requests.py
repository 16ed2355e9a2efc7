"""Hostile requests to the web app on 127.0.0.1, with /health asked all along.

An answer of status 500, a traceback in the log, a file named by its URL that is accepted, a
connection to the listener that stands for somebody else's machine, a /health that takes seconds:
each is a failure of the request that was on its way.
"""

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

import numpy as np
from tqdm import tqdm

from benchmarks.reliability import commands, indexes
from benchmarks.reliability.cases import MEMORY, Log, Outcome, Outside, Wrong
from benchmarks.reliability.payloads import Target, request
from benchmarks.reliability.workers import peak_memory

COUNT = 300
SECONDS = 30  # that an answer may take
PATIENCE = 2  # seconds after which a connection with half a request is given up
HEALTHY = 5  # seconds that /health may take
SECRET = "what no stranger may read"


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
        target = Target(server.port, watch.canary, server.folder / "secret.txt", events)
        what, data = request(rng, target)
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
