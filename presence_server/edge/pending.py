"""Sockets that are no connections yet, or were refused: bounded for each address and in all, the oldest go first.

A socket is pending while the node waits for its client: for the TLS handshake, the request, or the end of what was
refused. One that the node itself lets wait is not: a storm of clients that come back must not push itself out.
"""

from typing import Final, Protocol

from presence_server.logs import FloodLog

EXEMPT: Final = ""
"""The key of trusted proxies: many clients come from their addresses. Only the bound on all holds."""

_dropped = FloodLog(__name__, "pending sockets dropped: too many")


class Socket(Protocol):
    """A pending socket; hashed by identity."""

    def abort(self) -> None:
        """Drop the socket at once."""


class Pending:
    """Keeps at most `per_key_max` pending sockets of a key, and `total_max` of all.

    A socket that is one too many for its key pushes out the key's oldest one. Where all are too many, the oldest of the
    key that has most goes: a client alone at its address outlives any number from another one.
    """

    def __init__(self, per_key_max: int, total_max: int) -> None:
        self.dropped = 0
        """The number of sockets dropped."""
        self._per_key_max = per_key_max
        self._total_max = total_max
        self._keys: dict[Socket, str] = {}
        self._of_key: dict[str, dict[Socket, None]] = {}
        self._by_count: list[dict[str, None]] = [{} for _ in range(total_max + 2)]
        """Keys by how many sockets they have."""
        self._highest = 0
        """An upper bound on the number of sockets of any key."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, socket: Socket) -> bool:
        return socket in self._keys

    def add_socket(self, socket: Socket, key: str) -> None:
        """Note a socket as pending, and drop the one that is too many because of it."""
        if socket in self._keys:
            return
        self._keys[socket] = key
        of_key = self._of_key.setdefault(key, {})
        of_key[socket] = None
        self._recount_key(key, len(of_key) - 1, len(of_key))
        if key != EXEMPT and len(of_key) > self._per_key_max:
            self._drop_oldest(key)
        elif len(self._keys) > self._total_max:
            self._drop_oldest(self._fullest())

    def remove_socket(self, socket: Socket) -> None:
        """Forget a socket, if it is pending."""
        key = self._keys.pop(socket, None)
        if key is None:
            return
        of_key = self._of_key[key]
        del of_key[socket]
        if not of_key:
            del self._of_key[key]
        self._recount_key(key, len(of_key) + 1, len(of_key))

    def _drop_oldest(self, key: str) -> None:
        """Drop the oldest socket of a key."""
        oldest = next(iter(self._of_key[key]))
        self.remove_socket(oldest)
        self.dropped += 1
        _dropped.note(address=key or "trusted proxies")
        oldest.abort()

    def _fullest(self) -> str:
        """Return the key that has most sockets."""
        while not self._by_count[self._highest]:
            self._highest -= 1
        return next(iter(self._by_count[self._highest]))

    def _recount_key(self, key: str, before: int, after: int) -> None:
        self._by_count[before].pop(key, None)
        if after:
            self._by_count[after][key] = None
            self._highest = max(self._highest, after)
