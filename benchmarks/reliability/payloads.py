"""Requests that do harm: paths, pictures, uploads, events of the page, broken HTTP, masses."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.reliability.images import hostile, seeds
from benchmarks.reliability.mutations import mutate

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
OPTIONS = ["number", "beam", "length", "top_p", "seed", "top", "blend"]


@dataclass(frozen=True)
class Target:
    """What requests are made for.

    Attributes:
        port: of the app; canary: of a listener that nothing may connect to.
        secret: a file of the server; events: Gradio's, as /config names them.
    """

    port: int
    canary: int
    secret: Path
    events: list[dict]


def request(rng: np.random.Generator, target: Target) -> tuple[str, bytes]:
    """What is done, and the bytes to send."""
    kinds = ("path", "picture", "search", "upload", "event", "event", "raw", "crowd")
    kind = str(rng.choice(kinds))
    if kind == "path":
        path = PATHS[rng.integers(len(PATHS))]
        path = path.format(secret=target.secret, canary=target.canary)
        method = str(rng.choice(["GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "X" * 90]))
        return f"{method:.9} {path:.60}", _http(method, path, target.port)
    if kind == "picture":
        _, picture, done = hostile(rng)
        names = rng.choice(
            ["number", "beam", "length", "top_p", "seed", "top", "blend"], rng.integers(3)
        )
        query = "&".join(f"{name}={NUMBERS[rng.integers(len(NUMBERS))]}" for name in names)
        path = f"/api/{rng.choice(['caption', 'similar'])}?{quote(query, '=&%')}"
        return f"picture {done}, {query:.60}", _http("POST", path, target.port, picture)
    if kind == "search":
        sentence = b"a red circle" if rng.integers(2) else rng.bytes(int(rng.integers(1, 400)))
        path = f"/api/search?sentence={quote(sentence)}&top={NUMBERS[rng.integers(5, 10)]}"
        return "search", _http("GET", path, target.port)
    if kind == "upload":
        _, picture, done = hostile(rng)
        name = str(rng.choice(["a.png", "../../a.png", "/etc/x.png", "a\0b.png", "x" * 3000, ""]))
        body = _form([(name, picture)] * int(rng.choice([1, 1, 3, 9])))
        if rng.integers(2):
            body, faults = mutate(body, rng, [body])
            done += f", form {faults}"
        form = {"Content-Type": "multipart/form-data; boundary=part"}
        return f"upload {done}", _http("POST", "/gradio_api/upload", target.port, body, form)
    if kind == "event":
        return _event(rng, target)
    if kind == "crowd":
        return _crowd(rng, target.port)
    data = _http("POST", "/api/caption?number=2", target.port, seeds()[5][1])
    data, faults = mutate(data[:400] if rng.integers(2) else data, rng, [b"\r\n\r\n", data])
    return f"raw {faults}", data


def _event(rng: np.random.Generator, target: Target) -> tuple[str, bytes]:
    """An event of the page with a picture that is named in some other way than by its upload."""
    picture = base64.b64encode(hostile(rng)[1]).decode()
    urls = [
        None, f"data:image/png;base64,{picture}", f"http://127.0.0.1:{target.canary}/a.png",
        f"file://{target.secret}", f"data:application/postscript;base64,{picture}",
    ]  # fmt: skip
    paths = [None, None, str(target.secret), "/etc/passwd", "../secret.txt", "a\0b"]
    url, path = urls[rng.integers(len(urls))], paths[rng.integers(len(paths))]
    file = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
    if rng.integers(4) == 0:
        del file["path"]
    known = [event["id"] for event in target.events]
    function = int(rng.choice(known)) if rng.integers(3) else int(rng.choice([-1, 999, 2**31]))
    inputs = next((len(event["inputs"]) for event in target.events if event["id"] == function), 1)
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
    return what, _http("POST", "/gradio_api/queue/join", target.port, data, form)


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
