"""Registries for tests: one and what it was told to do, and those of several nodes on one server."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from presence_server.clock import SystemClock
from presence_server.protocol.messages import Document
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import ServerQueries
from presence_server.registry.commands import Command
from presence_server.registry.memory import MemoryRegistry
from presence_server.registry.port import (
    Connections,
    NodeStatus,
    Present,
    Registry,
    UserStatus,
)
from presence_server.registry.redis import RedisRegistry
from tests.support.handclock import HandClock
from tests.support.redis_server import RedisServer

KEYS = Keys("ps")
DAY_MS = 86_400_000
TTL_MS = 30_000


class Subject:
    """A registry, what it was told to do, and a way to let all that is on its way arrive.

    `new_registry(connections)` makes the registry.
    """

    def __init__(
        self,
        new_registry: Callable[[Connections], Registry],
        clock: HandClock | SystemClock,
        arrive: Callable[[Registry], Awaitable[object]],
    ) -> None:
        self.registry = new_registry(self)
        self.clock = clock
        self._arrive = arrive
        self.commands: list[Command] = []
        self.messages: list[tuple[str, Any, int]] = []
        self.here: dict[str, Present] = {}

    async def arrive(self) -> None:
        await self._arrive(self.registry)

    def apply_command(self, command: Command) -> None:
        self.commands.append(command)

    def deliver_to_user(self, user: str, data: Document, at: int) -> None:
        self.messages.append((user, msgspec.json.decode(data), at))

    def find_connection(self, cid: str) -> Present | None:
        return self.here.get(cid)

    async def status(self, user: str = "ann") -> UserStatus:
        await self.arrive()
        (status,) = await self.registry.users([user])
        return status


class Applying:
    """Connections that only record the commands for them."""

    def __init__(self, commands: list[Command]) -> None:
        self.commands = commands

    def apply_command(self, command: Command) -> None:
        self.commands.append(command)

    def deliver_to_user(self, user: str, data: Document, at: int) -> None:
        raise AssertionError("no message was sent")

    def find_connection(self, cid: str) -> Present | None:
        raise AssertionError("nobody was looked for")


def local_registry(
    clock: HandClock, connections: Connections, *, last_seen_ms: int = DAY_MS
) -> MemoryRegistry:
    return MemoryRegistry(
        lambda: NodeStatus("n1", "1"), lambda: connections, node="n1", clock=clock, last_seen_ms=last_seen_ms
    )


class Shared:
    """Registries of several nodes on one server."""

    def __init__(self, server: RedisServer, queries: ServerQueries) -> None:
        self.server = server
        self.queries = queries
        self.forgotten: list[str] = []
        """Nodes that the store had forgotten."""
        self.silences: list[int] = []
        """For how long all others had been silent when a node began, ms."""

    def node(self, name: str, connections: Connections | None = None) -> RedisRegistry:
        """Make a node's registry; without connections it is one that nobody may ask for them."""
        return RedisRegistry(
            self.queries,
            KEYS,
            SystemClock(),
            lambda: NodeStatus(name, "1"),
            forgotten=lambda: self.forgotten.append(name),
            others_silent=self.silences.append,
            connections=lambda: connections or Applying([]),
            is_deaf=lambda: False,
            node=name,
            ttl_ms=TTL_MS,
            last_seen_ms=DAY_MS,
        )

    async def register(self, registry: RedisRegistry) -> str:
        (answer,) = await self.queries.ask(registry.register("", DAY_MS))
        return registry.registered(answer)

    def time_ms(self) -> int:
        """Return the server's time."""
        seconds, micros = self.server.ask("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000

    def commands(self) -> int:
        """Return how many commands the server has run, those of scripts too."""
        stats = self.server.ask("INFO", "commandstats")
        return sum(int(stat["calls"]) for name, stat in stats.items() if name.startswith("cmdstat_"))

    def die(self, name: str) -> None:
        """Let a node's record end, as time would."""
        self.server.ask("ZADD", KEYS.registry().expiry, self.time_ms() - 1_000, name)

    def note_at(self, user: str, cid: str, noted_ms: int) -> None:
        """Let a connection have been noted at that time."""
        key = KEYS.user(user)[0]
        node, at, _, *rest = self.server.ask("HGET", key, cid).decode().split(" ")
        self.server.ask("HSET", key, cid, " ".join((node, at, str(noted_ms), *rest)))

    async def restored(self, registry: RedisRegistry) -> None:
        """Let a node return, and note everything anew."""
        await self.register(registry)
        registry.renew_all()
        registry.renew_due()
        await registry.nodes()
        await self.register(registry)
