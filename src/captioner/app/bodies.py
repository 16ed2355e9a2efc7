"""Bodies of requests: read with limits of size, time and memory; JSON and forms of strangers.

What counts is what has come, not what was promised: who promises 20 MB and sends one byte holds
one byte, and loses it soon. The limits of what is parsed are looked at on the bytes, before a
parser makes objects of them.
"""

import asyncio
import json
import re

from python_multipart.multipart import parse_options_header

from captioner.app.shares import Shares

DRAINED = 2**30  # bytes read of what is too large, so that the sender hears why
# A body that does not come on is given up: it may take so long, and a second more for each so many
# bytes (as Apache's mod_reqtimeout counts).
PATIENCE, RATE = 10.0, 50_000
VALUES, NESTED = 1000, 100  # of a JSON text: all values, and the objects and lists among them
FORM_PARTS, PART_HEADERS = 8, 4096  # pictures of a form; bytes of a part's headers

# Also a string that does not end, which would else be looked at anew from each quote in it.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class Refused(Exception):
    """An answer instead of what was asked for.

    Args:
        status: of HTTP; text: why, a sentence; headers: of the answer.
    """

    def __init__(self, status: int, text: str, **headers: str):
        self.status, self.text, self.headers = status, text, headers
        super().__init__(text)


class Bodies:
    """Reads the bodies of requests, as many at a time as memory allows.

    Args:
        requests: shares of requests with a body; held: shares of their bytes.
        patience, rate: seconds that a body may take, and bytes that earn it one second more.
    """

    def __init__(
        self, requests: Shares, held: Shares, patience: float = PATIENCE, rate: int = RATE
    ):
        self._requests, self._held = requests, held
        self._patience, self._rate = patience, rate

    async def read(self, receive, client: str, promised: int | None, limit: int) -> "Body":
        """A whole body; close it when it is no longer needed.

        Args:
            receive: of ASGI; client: whose share it takes.
            promised: bytes, as the sender says; None where it does not.
            limit: bytes.

        Raises:
            Refused: it is too large (413), too slow (408), broken off (400), or there is no room
                for it now (503). What still comes is read first, so that the sender hears it.
        """
        body = Body(self._requests, self._held, client)
        refused = None
        if not self._requests.take(client):
            body.open = False
            refused = Refused(503, "Too many requests at once; try again.", **{"retry-after": "1"})
        elif promised is not None and promised > limit:
            refused = _too_large(limit)
        loop = asyncio.get_running_loop()
        began, size = loop.time(), 0
        try:
            while True:
                try:
                    async with asyncio.timeout_at(began + self._patience + size / self._rate):
                        message = await receive()
                except TimeoutError:
                    text = "The request took too long to arrive."
                    raise Refused(408, text, connection="close") from None
                if message["type"] == "http.disconnect":
                    raise Refused(400, "The request broke off.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if refused is None and size > limit:
                    refused = _too_large(limit)
                if refused is None and not body.add(chunk):
                    refused = Refused(
                        503, "Too many requests at once; try again.", **{"retry-after": "1"}
                    )
                if refused is not None:
                    body.close()
                if not message.get("more_body") or size > DRAINED:
                    break
            if refused is not None:
                raise refused
        except BaseException:
            body.close()
            raise
        return body


class Body:
    """The bytes of a body, which count as held until `close`."""

    def __init__(self, requests: Shares, held: Shares, client: str):
        self._requests, self._held, self._client = requests, held, client
        self.data, self.open = bytearray(), True

    def add(self, chunk: bytes) -> bool:
        """Whether there was room for more."""
        if chunk and not self._held.take(self._client, len(chunk)):
            return False
        self.data += chunk
        return True

    def close(self) -> None:
        """Give back what the body held."""
        if self.open:
            self.open = False
            self._requests.give_back(self._client)
            self._held.give_back(self._client, len(self.data))
        self.data = bytearray()


def _too_large(limit: int) -> Refused:
    text = f"Too large: up to {limit // 10**6} MB are taken."
    if limit < 10**6:
        text = f"Too large: up to {limit // 1000} kB are taken."
    return Refused(413, text, connection="close")


def json_of(data: bytes) -> object:
    """A JSON text of few values.

    Raises:
        Refused: it is none (400): no UTF-8, NaN, a key twice ...; or it holds more than `VALUES`
            values, or `NESTED` objects and lists (413).
    """
    bare = _STRING.sub(b"", data)
    nested = bare.count(b"[") + bare.count(b"{")
    if nested > NESTED or nested + bare.count(b",") >= VALUES:
        raise Refused(413, f"Too much: up to {VALUES} values of JSON are taken.")
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number
        )
        json.dumps(value, ensure_ascii=False).encode()  # ValueError for half a surrogate pair
        return value
    except (ValueError, RecursionError):
        raise Refused(400, "This is no JSON.") from None


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice: parsers differ in which one counts")
    return dict(pairs)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def form_parts(data: bytes, content_type: str) -> list[bytes]:
    """The contents of a multipart form's parts, whatever they are called (RFC 7578, RFC 2046).

    Raises:
        Refused: it is no form, or has no part, or more than `FORM_PARTS`.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise Refused(400, "This is no form with a picture.")
    # No more pieces than are allowed, however many there are.
    preamble, *pieces = (b"\r\n" + data).split(b"\r\n--" + boundary, FORM_PARTS + 1)
    if preamble or not pieces or pieces[-1][:2] not in (b"--", b"\r\n"):
        raise Refused(400, "This is no form with a picture.")
    if pieces.pop()[:2] != b"--" or not pieces:
        raise Refused(400, f"Send one picture to {FORM_PARTS} at a time, in a whole form.")
    parts = []
    for piece in pieces:
        head, separator, content = piece.partition(b"\r\n\r\n")
        if not separator or len(head) > PART_HEADERS or not head.startswith(b"\r\n"):
            raise Refused(400, "This is no form with a picture.")
        parts.append(content)
    return parts
