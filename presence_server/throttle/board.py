"""The board on which nodes publish the keys that are hit and refused most."""

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
    """The board of nodes that share a store."""

    def publish(self, report: NodeReport) -> None:
        """Publish the report of this node; another one follows within seconds, should it be lost."""

    async def others(self, nodes: Sequence[str]) -> list[NodeReport]:
        """Return what those nodes said within the last seconds. Raises `StoreAwayError`."""


class LocalBoard:
    """The board of a process on its own, which nobody else reads."""

    def publish(self, report: NodeReport) -> None:
        """Do nothing: there are no other nodes."""
        del report

    async def others(self, nodes: Sequence[str]) -> list[NodeReport]:
        """Return no reports: there are no other nodes."""
        del nodes
        return []


class RedisBoard:
    """The board in Redis or Valkey: a key for each node, with a short TTL."""

    def __init__(self, queries: Queries, keys: Keys, node: str) -> None:
        self._queries = queries
        self._keys = keys
        self._node = node
        self._said = False

    def publish(self, report: NodeReport) -> None:
        """Publish the report of this node; a node where nothing is counted publishes nothing."""
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
