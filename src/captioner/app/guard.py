"""Who may ask what: the gate that every request passes before anything else sees it.

Gradio serves more than this app uses (a proxy, stored runs, a route that reads files ...): what is
not on the list here is not there, and of what is there, only what is needed goes on.
"""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from captioner.app.bodies import Bodies, Refused, json_of
from captioner.app.events import FILE, Events
from captioner.app.login import Login
from captioner.app.scripts import PLACE, TAG
from captioner.app.shares import Shares, client_of
from captioner.serving import QUEUE
from captioner.uploads import BYTES

UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"
ANSWERS = "/gradio_api/queue/data"
PICTURES = (UPLOAD, "/api/caption", "/api/similar")  # whose bodies hold a picture
LARGEST = dict.fromkeys(PICTURES, BYTES + 100_000)  # bytes of a body, with what wraps it
OTHERS = 100_000  # bytes of any other body
# Requests with a body, and bytes of them, at a time: more than the queue, which knows when to come
# back, also from one client, who gets half of it.
INSIDE, HELD = 4 * QUEUE, 400_000_000
HEADERS_MOST = 100  # of a request

GET = re.compile(
    r"/|/(scripts\.js|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|health)"
    r"|/(static|assets)/[\w./-]{1,200}"
    r"|/gradio_api/(queue/data|heartbeat/[\w-]{1,64}|upload_progress|startup-events)"
    r"|/gradio_api/file=.+|/pictures/\d{1,9}\.jpg|/api/(map\.json|map\.jpg|search)",
    re.ASCII,
)
POST = re.compile(r"/api/(caption|similar)|/gradio_api/(queue/join|upload|cancel|reset)")
# Whose answers depend on what follows the question mark; of others it is left out.
ASKED = re.compile(r"/api/(caption|similar|search)|/gradio_api/queue/data")
SESSION = re.compile(rb"session_hash=([A-Za-z0-9_-]{1,64})")
# Once a request, or programs differ in which one counts.
SINGLE = {b"host", b"origin", b"authorization", b"content-type", b"content-length"}
LEFT_OUT = {b"range", b"if-range"}  # nothing here is so large, and Gradio fails on odd ones

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
SCRIPT = re.compile(rb"<script(?: [^>]*)?>(.*?)</script>", re.DOTALL)
LOCAL = {"127.0.0.1", "localhost", "::1"}


def policy(scripts: list[bytes]) -> str:
    """The content security policy of an answer: what a caption smuggles in has nowhere to go.

    Args:
        scripts: that stand in the page itself; no others run but those in the server's files.
    """
    hashes = [
        base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts if script
    ]
    allowed = "".join(f" 'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'self'; script-src 'self'{allowed}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' blob: mediastream:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        events: of the pages in it.
        local: whether the server listens on this machine alone; then only its own names are
            answered, or a page elsewhere could reach it through a name of its own (DNS rebinding).
        login: the gate of those who have a password, or None.
    """

    def __init__(self, app: Callable, events: Events, local: bool, login: Login | None):
        self.app, self.events, self.local, self.login = app, events, local, login
        self.bodies = Bodies(Shares(INSIDE), Shares(HELD))

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the app has no web sockets
        path = scope["path"].rstrip("/") or "/"
        client = client_of(scope["client"][0] if scope.get("client") else "")
        try:
            headers = self._admit(scope, path, client)
            scope = scope | {
                "headers": [pair for pair in scope["headers"] if pair[0] not in LEFT_OUT],
                "query_string": scope["query_string"] if ASKED.fullmatch(path) else b"",
            }
            answer = _Page(send) if path == "/" else _Answer(send)
            if scope["method"] != "POST":
                await self.app(scope, receive, answer)
                return
            limit = LARGEST.get(path, OTHERS)
            body = await self.bodies.read(receive, client, _promised(headers), limit)
            try:
                if path not in PICTURES:
                    data = self._event(path, bytes(body.data), headers)
                    body.data[:], scope = data, _with_json(scope, len(data))
                await self.app(scope, _again(bytes(body.data), receive), answer)
            finally:
                body.close()
        except Refused as refused:
            await _refuse(send, refused)

    def _admit(self, scope, path: str, client: str) -> dict[str, str]:
        """The headers of a request that may be answered."""
        names = [name for name, _ in scope["headers"]]
        if len(names) > HEADERS_MOST or any(names.count(name) > 1 for name in SINGLE):
            raise Refused(431, "Too many headers, or one twice.", connection="close")
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        method, host = scope["method"], headers.get("host", "")
        if self.local and _name(f"//{host}") not in LOCAL:
            raise Refused(403, "This server answers to the names of its own machine alone.")
        origin = headers.get("origin")
        if origin and method != "GET" and _place(origin) != host:
            raise Refused(403, "This request comes from another site's page.")
        if self.login:
            self.login.check(client, headers.get("authorization"))
        allowed = {"GET": GET, "HEAD": GET, "POST": POST}.get(method)
        if allowed is None or not allowed.fullmatch(path):
            raise Refused(404, "There is nothing here.")
        if path.startswith(FILE):
            self.events.uploaded(path.removeprefix(FILE))  # decoded by the server
        if path == ANSWERS:
            session = SESSION.fullmatch(scope["query_string"])
            if not session or not self.events.waits(session[1].decode()):
                raise Refused(404, "There is no such session.")
        return headers

    def _event(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        """The body of an event as Gradio may see it."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "This is no JSON.")
        body = json_of(data)
        if path == JOIN:
            body = self.events.join(body, headers.get("host", ""))
        elif path.endswith("cancel"):
            body = self.events.cancel(body)
        else:
            body = self.events.reset(body)
        return json.dumps(body).encode()


class _Answer:
    """`send` with the headers of every answer."""

    def __init__(self, send):
        self._send = send

    async def __call__(self, message) -> None:
        await self._send(_with_headers(message, []))


class _Page(_Answer):
    """`send` of the page itself: the scripts in it are allowed, and one is put before them."""

    def __init__(self, send):
        super().__init__(send)
        self._start, self._body = None, b""

    async def __call__(self, message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            body = self._body.replace(PLACE, PLACE + TAG, 1)
            kept = [pair for pair in self._start["headers"] if pair[0] != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            start = self._start | {"headers": [*kept, length] if body else kept}
            await self._send(_with_headers(start, SCRIPT.findall(body)))
            await self._send({"type": "http.response.body", "body": body})


def _with_headers(message, scripts: list[bytes]):
    if message["type"] != "http.response.start":
        return message
    more = HEADERS | {"content-security-policy": policy(scripts)}
    encoded = [(name.encode(), value.encode()) for name, value in more.items()]
    return message | {"headers": [*message["headers"], *encoded]}


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _place(address: str) -> str | None:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


def _promised(headers: dict[str, str]) -> int | None:
    """Bytes of the body as its sender says; h11 has seen to it that it is a number."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _with_json(scope, size: int):
    """The scope of a request whose body was written anew."""
    old = [pair for pair in scope["headers"] if pair[0] not in SINGLE - {b"host", b"origin"}]
    old = [pair for pair in old if pair[0] != b"transfer-encoding"]
    new = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    return scope | {"headers": [*old, *new]}


def _again(body: bytes, receive) -> Callable[[], Awaitable[dict]]:
    """`receive` of a request whose body has been read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_more() -> dict:
        return waiting.pop() if waiting else await receive()

    return once_more


async def _refuse(send, refused: Refused) -> None:
    body = refused.text.encode()
    headers = refused.headers | {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "http.response.start", "status": refused.status, "headers": encoded}
    await send(_with_headers(start, []))
    await send({"type": "http.response.body", "body": body})
