"""What nodes tell each other of the keys that are hit and refused most."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call
from presence_server.throttle.talkers import Report

PUBLISHED_EVERY_S: Final = 5.0
KEPT_MS: Final = 15_000


class NodeReport(msgspec.Struct, frozen=True):
    """The keys that one node counts most."""

    hits: Report
    refused: Report


class Board(Protocol):
    """Where nodes leave it for each other."""

    def publish(self, report: NodeReport) -> None:
        """Say it for this node; what is lost is said again a few seconds later."""

    async def others(self, nodes: Sequence[str]) -> list[NodeReport]:
        """Return what those nodes said within the last seconds. Raises `StoreAwayError`."""


class LocalBoard:
    """Of a process on its own: there is nobody to tell."""

    def publish(self, report: NodeReport) -> None:
        """Do nothing: there are no other nodes."""
        del report

    async def others(self, nodes: Sequence[str]) -> list[NodeReport]:
        """Return no reports: there are no other nodes."""
        del nodes
        return []


class RedisBoard:
    """In Redis or Valkey, a key for each node, that ends soon."""

    def __init__(self, queries: Queries, keys: Keys, node: str) -> None:
        self._queries = queries
        self._keys = keys
        self._node = node
        self._said = False

    def publish(self, report: NodeReport) -> None:
        """Say it; a node where nothing happens says nothing, and costs nothing."""
        says = bool(report.hits.lines)
        if says or self._said:
            payload = msgspec.msgpack.encode(report)
            self._queries.tell(Call(("SET", self._keys.talkers(self._node), payload, "PX", KEPT_MS)))
        self._said = says

    async def others(self, nodes: Sequence[str]) -> list[NodeReport]:
        """Return what those nodes said; one of another version says nothing that can be read."""
        calls = [Call(("GET", self._keys.talkers(node))) for node in nodes if node != self._node]
        found = []
        for answer in await self._queries.ask(*calls):
            try:
                if answer is not None:
                    found.append(msgspec.msgpack.decode(answer, type=NodeReport))
            except msgspec.MsgspecError:
                continue
        return found
