"""HTTP/1.1 with limits that uvicorn does not have: on headers, chunks, time and connections.

uvicorn waits for the end of a request's headers as long as it takes, reads what comes after an
early answer without end, and takes any number of connections. Bodies are `bodies.py`'s. The usual
limits of servers are meant: nginx's `client_header_timeout`, `send_timeout` and `limit_conn`,
Apache's `mod_reqtimeout`.
"""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from captioner.app.shares import Shares, client_of

HEADER_SECONDS = 10.0  # from a connection, or a request's first byte, to the end of its headers
SEND_SECONDS = 60.0  # that a client may leave an answer unread
HEADER_BYTES = 16_384  # of the request line and headers, at a time twice that
CONNECTIONS = 512
# A connection that is refused stays open for its request to arrive: closed before that, the client
# may see a reset and no answer.
LINGER_SECONDS, LINGERING = 2.0, 512
# A body may come in many small chunks, each of which costs time: so many, and one more for each
# so many bytes.
CHUNKS, CHUNK_BYTES = 1000, 512

FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\r\n"


class _Connection(h11.Connection):
    """Counts the pieces of a request's body."""

    _pieces = _bytes = 0

    def next_event(self):
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces, self._bytes = self._pieces + 1, self._bytes + len(event.data)
            if self._pieces > CHUNKS + self._bytes // CHUNK_BYTES:
                raise h11.RemoteProtocolError("The body comes in too small chunks")
        return event


class Protocol(H11Protocol):
    """One connection; `uvicorn.Config(http=Protocol)`."""

    shares = Shares(CONNECTIONS)
    lingering: ClassVar[set["Protocol"]] = set()
    _waiting: asyncio.TimerHandle | None = None  # for the end of a request's headers
    _unread: asyncio.TimerHandle | None = None  # for the client to read on
    _holder: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if this client may have one more."""
        super().connection_made(transport)
        self.conn = _Connection(h11.SERVER, HEADER_BYTES)
        holder = client_of(self.client[0] if self.client else "")
        if not self.shares.take(holder):
            transport.write(FULL)
            if len(self.lingering) < LINGERING and transport.can_write_eof():
                self.lingering.add(self)
                transport.write_eof()
                self._waiting = self.loop.call_later(LINGER_SECONDS, transport.close)
            else:
                transport.close()
            return
        self._holder = holder
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what the connection held."""
        super().connection_lost(exc)
        self.lingering.discard(self)
        self._stop_waiting()
        self._read_on()
        self._unset_keepalive_if_required()
        if self._holder is not None:
            self.shares.give_back(self._holder)
            self._holder = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, in pieces so small that the limit on headers counts."""
        if self in self.lingering:
            return
        for start in range(0, len(data), HEADER_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + HEADER_BYTES])
        if self._answering():
            self._stop_waiting()
        else:
            # Also for what follows an early answer: a body that nobody reads any more.
            self._wait_for_headers()

    def send_400_response(self, msg: str) -> None:
        """Say that the request is malformed, where no answer has begun yet."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read: not for ever."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._read_on()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._waiting = self._waiting or self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        self._waiting = None
        if not self._answering():
            self.transport.close()
