"""A board on which nodes publish reports of themselves, for whoever asks any of them."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call

Report = TypeVar("Report", bound=msgspec.Struct)
NODES_MAX: Final = 500
"""Nodes whose reports are read for one answer."""

PAUSE_AFTER: Final = 20
"""Reports that are read in one turn of the loop: one takes 0.1 ms."""


class Board(Protocol[Report]):
    """The board of nodes that share a store. `own` is what this node published last."""

    own: Report | None

    def publish(self, report: Report | None) -> None:
        """Publish the report of this node; another one follows within seconds, should it be lost. None: it has none."""

    async def others(self, nodes: Sequence[str]) -> list[Report]:
        """Return the reports of those nodes that are not too old, without this node's. Raises `StoreAwayError`."""


class MemoryBoard(Generic[Report]):
    """The board of a process on its own, which has no other nodes."""

    def __init__(self) -> None:
        self.own: Report | None = None

    def publish(self, report: Report | None) -> None:
        """Keep the report."""
        self.own = report

    async def others(self, nodes: Sequence[str]) -> list[Report]:
        """Return no reports: there are no other nodes."""
        del nodes
        return []


class RedisBoard(Generic[Report]):
    """The board in Redis or Valkey: a key for each node, `key_of(node)`, which ends `kept_ms` after its last report."""

    def __init__(
        self,
        queries: Queries,
        kind: type[Report],
        node: str,
        *,
        key_of: Callable[[str], str],
        kept_ms: int,
    ) -> None:
        self.own: Report | None = None
        self._queries = queries
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._node = node
        self._key_of = key_of
        self._kept_ms = kept_ms

    def publish(self, report: Report | None) -> None:
        """Publish the report; the key of a node that has none ends by itself."""
        self.own = report
        if report is not None:
            payload = msgspec.msgpack.encode(report)
            self._queries.tell(Call(("SET", self._key_of(self._node), payload, "PX", self._kept_ms)))

    async def others(self, nodes: Sequence[str]) -> list[Report]:
        """Return the reports of those nodes; one of another version that cannot be read is left out."""
        others = [node for node in nodes if node != self._node][:NODES_MAX]
        found = []
        answers = await self._queries.ask(*(Call(("GET", self._key_of(node))) for node in others))
        for number, answer in enumerate(answers, 1):
            if number % PAUSE_AFTER == 0:
                await anyio.lowlevel.checkpoint()  # nobody else is to wait until hundreds are read
            try:
                if answer is not None:
                    found.append(self._decode(answer))
            except msgspec.MsgspecError:
                continue
        return found
