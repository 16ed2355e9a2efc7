"""Who may ask what: the gate that every request passes before anything else sees it.

Gradio serves more than this app uses (a proxy, stored runs, a route that reads files ...): what is
not on the list here is not there. Bodies are counted as they arrive, and pictures are looked at
before anything of them touches the disk.
"""

import asyncio
import base64
import binascii
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from python_multipart.multipart import MultipartParser, parse_options_header

from captioner.raster import PictureError
from captioner.serving import QUEUE
from captioner.uploads import BYTES

UPLOAD = "/gradio_api/upload"
PICTURES = (UPLOAD, "/api/caption", "/api/similar")  # whose bodies hold a picture
LARGEST = dict.fromkeys(PICTURES, BYTES + 100000)  # bytes of a body, with what wraps it
OTHERS = 2_000_000  # bytes of any other body
DRAINED = 2**30  # bytes read of what is too large, so that the sender hears why
SECONDS = 60  # that a body may take to arrive
# Requests with a body, and bytes of them, at a time: more than the queue, which knows when to come
# back.
INSIDE, HELD = 2 * QUEUE, 400_000_000

GET = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|health)|/(static|assets)/.+"
    r"|/gradio_api/(queue/data|heartbeat/[\w-]+|upload_progress|startup-events)"
    r"|/gradio_api/file=.+|/pictures/\d+\.jpg|/api/(map\.json|map\.jpg|search)"
)
POST = re.compile(r"/api/(caption|similar)|/gradio_api/(queue/join|upload|cancel|reset)")
HEADERS = {
    # What a caption or a file name could smuggle in has nowhere to go. Gradio's templates are
    # compiled in the browser, hence unsafe-eval.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob: mediastream:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
LOCAL = {"127.0.0.1", "localhost", "::1"}
STATUS = {"picture too large": 413, "no picture": 415, "no single picture": 415}


def status_of(error: PictureError) -> int:
    """The HTTP status that says why a picture was refused."""
    return STATUS.get(error.reason, 422)


class _Refused(Exception):
    def __init__(self, status: int, text: str, **headers: str):
        self.status, self.text, self.headers = status, text, headers


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        uploads: the folder that Gradio keeps uploads in, the only one that files are read from.
        read: takes the bytes of a picture, in a thread; PictureError refuses it.
        local: whether the server listens on this machine alone; then only its own names are
            answered, or a page elsewhere could reach it through a name of its own (DNS rebinding).
        login: user and password, or None.
    """

    def __init__(
        self,
        app: Callable,
        uploads: Path,
        read: Callable[[bytes], object],
        local: bool,
        login: tuple[str, str] | None,
    ):
        self.app, self.uploads, self.read = app, uploads.resolve(), read
        self.local, self.login = local, login
        self._inside = self._held = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the app has no web sockets
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        path = scope["path"].rstrip("/") or "/"

        async def send_guarded(message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *more]}
            await send(message)

        try:
            self._admit(scope["method"], path, headers)
            if scope["method"] != "POST":
                await self.app(scope, receive, send_guarded)
                return
            size = _promised(headers)
            limit = LARGEST.get(path, OTHERS)
            if self._inside >= INSIDE or self._held + min(size, limit) > HELD:
                limit = -1
            held = min(size, max(limit, 0))
            self._inside, self._held = self._inside + 1, self._held + held
            try:
                body = await _body(size, receive, limit)
                if path == UPLOAD:
                    await self._look_at(body, headers)
                elif path not in PICTURES:
                    self._look_through(body)
                await self.app(scope, _again(body, receive), send_guarded)
            finally:
                self._inside, self._held = self._inside - 1, self._held - held
        except _Refused as refused:
            await _answer(send, refused)

    def _admit(self, method: str, path: str, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self.local and _name(f"//{host}") not in LOCAL:
            raise _Refused(403, "This server answers to the names of its own machine alone.")
        origin = headers.get("origin")
        if origin and method != "GET" and urlsplit(origin).netloc != host:
            raise _Refused(403, "This request comes from another site's page.")
        if self.login and not _knows(headers.get("authorization", ""), self.login):
            raise _Refused(
                401,
                "User and password, please.",
                **{"www-authenticate": 'Basic realm="captioner", charset="UTF-8"'},
            )
        allowed = {"GET": GET, "HEAD": GET, "POST": POST}.get(method)
        if allowed is None or not allowed.fullmatch(path):
            raise _Refused(404, "There is nothing here.")
        if path.startswith("/gradio_api/file="):
            self._check_path(path.partition("=")[2])  # decoded by the server

    def _check_path(self, path: object) -> None:
        if not isinstance(path, str) or "\0" in path or not Path(path).is_absolute():
            raise _Refused(403, "Files of the server are not for reading.")
        if not Path(path).resolve().is_relative_to(self.uploads):
            raise _Refused(403, "Files of the server are not for reading.")

    def _look_through(self, body: bytes) -> None:
        """Whatever an event calls a file has to be one that was uploaded: where Gradio is mounted
        in another application, it would take any file that the server can read."""
        try:
            waiting = [json.loads(body or b"null")]
        except (ValueError, RecursionError):
            raise _Refused(400, "This is no JSON.") from None
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if value.get("path") is not None:
                    self._check_path(value["path"])
                if value.get("url") is not None and "path" not in value:
                    raise _Refused(403, "Files are uploaded, not fetched.")
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value

    async def _look_at(self, body: bytes, headers: dict[str, str]) -> None:
        """Every file of an upload has to be a picture."""
        for data in _parts(body, headers.get("content-type", "")):
            try:
                await asyncio.to_thread(self.read, data)
            except PictureError as error:
                raise _Refused(status_of(error), _sentence(str(error))) from None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _knows(authorization: str, login: tuple[str, str]) -> bool:
    kind, _, secret = authorization.partition(" ")
    try:
        given = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = ":".join(login).encode()
    return kind.lower() == "basic" and hmac.compare_digest(given, expected)


def _promised(headers: dict[str, str]) -> int:
    """Bytes of the body as its sender says; of one in chunks nobody knows."""
    text = headers.get("content-length", str(BYTES) if "transfer-encoding" in headers else "0")
    return int(text) if text.isdecimal() and len(text) < 16 else DRAINED


async def _body(promised: int, receive, limit: int) -> bytes:
    """The whole body; of one that is too large, or one too many, what comes is thrown away and the
    sender told."""
    parts, size, large = [], 0, promised > limit
    end = asyncio.get_running_loop().time() + SECONDS
    while True:
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise _Refused(408, "The request took too long to arrive.") from None
        if message["type"] == "http.disconnect":
            raise _Refused(400, "The request broke off.")
        size += len(message.get("body", b""))
        large |= size > limit
        if large:
            parts.clear()
        else:
            parts.append(message.get("body", b""))
        if not message.get("more_body") or size > DRAINED:
            break
    if limit < 0:
        raise _Refused(503, "Too many requests at once; try again.", **{"retry-after": "1"})
    if large:
        text = f"Too large: up to {limit // 10**6} MB are taken."
        raise _Refused(413, text, connection="close")
    return b"".join(parts)


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """The contents of a multipart form."""
    kind, options = parse_options_header(content_type)
    parts: list[bytearray] = []
    try:
        if kind != b"multipart/form-data":
            raise ValueError(kind)
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": lambda: parts.append(bytearray()),
                "on_part_data": lambda data, start, end: parts[-1].extend(data[start:end]),
            },
        )
        parser.write(body)
        parser.finalize()
    except (ValueError, KeyError):  # MultipartParseError is a ValueError
        raise _Refused(400, "This is no form with a picture.") from None
    if not 1 <= len(parts) <= 8:
        raise _Refused(400, "Send one picture to eight at a time.")
    return [bytes(part) for part in parts]


def _again(body: bytes, receive) -> Callable[[], Awaitable[dict]]:
    """`receive` of a request whose body has been read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_more() -> dict:
        return waiting.pop() if waiting else await receive()

    return once_more


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


async def _answer(send, refused: _Refused) -> None:
    body = refused.text.encode()
    headers = HEADERS | refused.headers
    headers |= {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
