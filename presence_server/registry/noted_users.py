"""The connections of users as nodes noted them in the store, and which of them still count. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from presence_server.registry.port import UserConnection, UserStatus

LEASE_MS: Final = 3_600_000
"""A user's connections are noted anew before this is over; without that the hint ends."""


class NotedConnection(NamedTuple):
    """A connection as its node noted it, and when it last did; it does so again before its lease ends.

    `incarnation` is the node's when it did; see `OwnConnections.renew_all`.
    """

    cid: str
    node: str
    at: int
    noted_ms: int
    incarnation: int


class LiveNodes:
    """The nodes that are alive, and the least incarnation of each that counts."""

    def __init__(self, own: str, alive: Sequence[bytes], incarnations: Mapping[bytes, bytes]) -> None:
        # This node is alive, whatever the store's clock has done to its record.
        self._nodes = {own, *(bytes(node).decode() for node in alive)}
        self._least = {bytes(node).decode(): int(least) for node, least in incarnations.items()}

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def counts(self, node: str, incarnation: int) -> bool:
        """Tell whether what a node noted in an incarnation still counts."""
        return node in self._nodes and incarnation >= self._least.get(node, 0)


class NotedUser:
    """The connections of a user that nodes noted, and when the user was last seen."""

    def __init__(self, answer: Sequence[Any]) -> None:
        now_ms, seen_ms, *entries = answer
        self.connections: list[NotedConnection] = []
        self._now_ms = int(now_ms)
        self._seen_ms = int(seen_ms)
        for cid, entry in zip(entries[::2], entries[1::2], strict=True):
            node, *numbers = bytes(entry).decode().split(" ")
            at, noted_ms, incarnation, _ = map(int, numbers)
            self.connections.append(NotedConnection(bytes(cid).decode(), node, at, noted_ms, incarnation))

    def status(self, live: LiveNodes, heard_ms: Mapping[str, int], last_seen_ms: int) -> UserStatus:
        """Return where the user is; `heard_ms` is when nodes that died were last heard of, as far as that is known."""
        here = []
        seen_ms = self._seen_ms
        for connection in self.connections:
            counts = live.counts(connection.node, connection.incarnation)
            if counts and self._now_ms - connection.noted_ms < LEASE_MS:
                here.append(UserConnection(connection.cid, connection.node, connection.at))
            else:
                seen_ms = max(seen_ms, connection.noted_ms, heard_ms.get(connection.node, 0))
        if here:
            return UserStatus(sorted(here, key=lambda connection: connection.at), self._now_ms)
        return UserStatus([], seen_ms if self._now_ms - seen_ms < last_seen_ms else None)
