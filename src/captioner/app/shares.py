"""Something limited, shared out among clients: one may hold as much as is left for all others.

A fixed share would be too small for the only client and too large for the tenth. Here one client
alone gets at most half of all, two a third each, and a newcomer always finds something left
(dynamic thresholds; Choudhury and Hahne 1998, "Dynamic Queue Length Thresholds").
"""

import ipaddress
from collections import Counter


def client_of(host: str) -> str:
    """Who an address belongs to: of IPv6 the /64 network, which is what one subscriber gets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Shares:
    """What is left, and who holds how much.

    Args:
        total: of all clients.
    """

    def __init__(self, total: int):
        self.total, self.used = total, 0
        self._held: Counter[str] = Counter()

    def take(self, client: str, amount: int = 1) -> bool:
        """Whether the client gets so much more."""
        if self._held[client] + amount > self.total - self.used:
            return False
        self._held[client] += amount
        self.used += amount
        return True

    def give_back(self, client: str, amount: int = 1) -> None:
        """What `take` gave."""
        self._held[client] -= amount
        self.used -= amount
        if not self._held[client]:
            del self._held[client]
