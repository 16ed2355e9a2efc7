"""User and password of HTTP (RFC 7617), and how often they may be guessed.

Each client has so many wrong guesses, which come back one by one (a token bucket); so have all
together, for guesses from many addresses. Who has been let in before is not kept out by what others
guess.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable

from captioner.app.bodies import Refused

GUESSES, SECONDS = 10, 6.0  # wrong ones of a client at once, and until one comes back
ALL_GUESSES, ALL_SECONDS = 100, 0.6  # of all clients together
CLIENTS = 10_000  # remembered


class Bucket:
    """`size` tokens, of which one comes back every `seconds`."""

    def __init__(self, size: int, seconds: float, now: float):
        self.size, self.seconds, self._left, self._at = size, seconds, float(size), now

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        self._left = min(self.size, self._left + (now - self._at) / self.seconds)
        self._at = now
        return max(0.0, (1 - self._left) * self.seconds)

    def take(self) -> None:
        """Take the token that `wait` found."""
        self._left -= 1


class Login:
    """The gate of one user.

    Args:
        user, password: that every request needs.
        clock: seconds, for tests.
    """

    def __init__(self, user: str, password: str, clock: Callable[[], float] = time.monotonic):
        self._expected = _digest(f"{user}:{password}".encode())
        self._clock = clock
        self._all = Bucket(ALL_GUESSES, ALL_SECONDS, clock())
        self._clients: OrderedDict[str, Bucket] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    def check(self, client: str, authorization: str | None) -> None:
        """Let a request of a client pass.

        Args:
            client: whose guesses are counted; authorization: the header, or None.

        Raises:
            Refused: there is no password or a wrong one (401), or there were too many wrong ones
                (429): then a right one does not count either.
        """
        if authorization is None:  # a browser asks once without, and then its user
            raise _unknown()
        now, own = self._clock(), self._clients.get(client)
        wait = own.wait(now) if own else 0.0
        if client not in self._known:
            wait = max(wait, self._all.wait(now))
        if wait:
            text = "Too many wrong passwords; try again later."
            raise Refused(429, text, **{"retry-after": str(max(1, round(wait + 0.5)))})
        given = _digest(_credentials(authorization))
        if hmac.compare_digest(given, self._expected):
            _remember(self._known, client, None)
            return
        if own is None:
            own = Bucket(GUESSES, SECONDS, now)
        _remember(self._clients, client, own)
        own.take()
        if client not in self._known:
            self._all.take()
        raise _unknown()


def _remember(clients: OrderedDict, client: str, value: object) -> None:
    clients[client] = value
    clients.move_to_end(client)
    while len(clients) > CLIENTS:
        clients.popitem(last=False)


def _credentials(authorization: str) -> bytes:
    kind, _, secret = authorization.partition(" ")
    try:
        return base64.b64decode(secret, validate=True) if kind.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b""


def _digest(text: bytes) -> bytes:
    """Of one length for all texts, so that comparing takes the same time for all."""
    return hashlib.sha256(text).digest()


def _unknown() -> Refused:
    return Refused(
        401,
        "User and password, please.",
        **{"www-authenticate": 'Basic realm="captioner", charset="UTF-8"'},
    )
