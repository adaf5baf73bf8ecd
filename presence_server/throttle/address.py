"""The address that a client is counted by: never one that the client could have made up.

A header counts only as far as it was written by proxies that are trusted. The walk goes from the peer back
through the header, right to left, past every trusted hop; the first that is not trusted is the client. A hop
that is no address ends the walk at the last one that was: a client can write anything to the left of it.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
HOPS_MAX: Final = 32
"""Hops that are looked at; no chain of proxies is longer."""
FORWARDED: Final = "forwarded"
REMEMBERED: Final = 4_096
"""Addresses whose reading is remembered: it takes longer than to count the client."""
REMEMBERED_CHARS_MAX: Final = 64
"""Longer ones are read each time: clients write them."""
UNKNOWN: Final = "unknown"
"""The key of those whose peer has no IP address, such as on a unix socket."""


class ClientAddresses:
    """Finds clients' addresses behind trusted proxies.

    `trusted` are addresses and networks; `header` is where those proxies say whom they serve:
    `x-forwarded-for` or one like it, or `forwarded` (RFC 7239). IPv6 addresses that share `ipv6_prefix` bits
    are one client. Raises `ValueError` for what is no network.
    """

    def __init__(
        self, trusted: Sequence[str] = (), header: str = "x-forwarded-for", ipv6_prefix: int = 64
    ) -> None:
        self.header = header.lower()
        self._trusted = networks(trusted)
        self._ipv6_prefix = ipv6_prefix

    def client(self, peer: str | Address, lines: Sequence[str]) -> Address | None:
        """Return the client of a connection from `peer` whose request has these lines of the header."""
        address = parse_address(peer) if isinstance(peer, str) else peer
        if address is None or not self.trusts(address):
            return address
        for hop in self._hops(lines):
            further = parse_address(hop)
            if further is None:
                return address
            address = further
            if not self.trusts(address):
                return address
        return address

    def trusts(self, address: Address) -> bool:
        """Tell whether an address is a trusted proxy's."""
        return contains(self._trusted, address)

    def key(self, address: Address | None) -> str:
        """Return what a client is counted by."""
        if address is None:
            return UNKNOWN
        return _key(address, self._ipv6_prefix)

    def _hops(self, lines: Sequence[str]) -> list[str]:
        """Return the last hops, the nearest first."""
        hops: list[str] = []
        for line in reversed(lines):
            parts = _split(line) if self.header == FORWARDED else line.split(",")
            hops += reversed(parts[-HOPS_MAX:])
            if len(hops) >= HOPS_MAX:
                break
        if self.header == FORWARDED:
            return [_forwarded_for(hop) for hop in hops[:HOPS_MAX]]
        return hops[:HOPS_MAX]


def networks(texts: Sequence[str]) -> list[Network]:
    """Return addresses and networks as networks. Raises `ValueError` for what is neither."""
    return [ipaddress.ip_network(text, strict=False) for text in texts]


def contains(among: Sequence[Network], address: Address) -> bool:
    """Tell whether an address is in one of the networks."""
    return bool(among) and any(address.version == network.version and address in network for network in among)


def parse_address(text: str) -> Address | None:
    """Return the address that `text` names: with a port, brackets, quotes or a zone, or without.

    An IPv6 address that stands for an IPv4 one is that one (RFC 4291, 2.5.5.2).
    """
    return _parse_short(text) if len(text) <= REMEMBERED_CHARS_MAX else _parse(text)


def _parse(text: str) -> Address | None:
    host = text.strip().strip('"')
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not (rest[0] == ":" and rest[1:].isdigit())):
            return None
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        if not port.isdigit():
            return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


_parse_short = lru_cache(REMEMBERED)(_parse)


@lru_cache(REMEMBERED)
def _key(address: Address, ipv6_prefix: int) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((address, ipv6_prefix), strict=False))


def _split(line: str) -> list[str]:
    """Split a `Forwarded` line at the commas outside of quotes."""
    parts, begin, quoted = [], 0, False
    for i, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append(line[begin:i])
            begin = i + 1
    return [*parts, line[begin:]]


def _forwarded_for(element: str) -> str:
    """Return what a `Forwarded` element says after `for=`; "" where it says nothing (RFC 7239, 4)."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value
    return ""
