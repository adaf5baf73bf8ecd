"""What holds nodes together: store and bus, for a process on its own or for many through Redis."""

import secrets
from collections.abc import Callable
from typing import Protocol

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from presence_server.bus.local import LocalBus
from presence_server.bus.port import Bus
from presence_server.bus.redis import RedisBus
from presence_server.clock import Clock
from presence_server.config.settings import Settings
from presence_server.presence.memory import MemoryStore
from presence_server.presence.redis import RedisStore, Timing
from presence_server.presence.roster import Delta
from presence_server.presence.shared import SharedStore
from presence_server.presence.store import PresenceStore
from presence_server.redis_io.client import AWAY, TIMEOUT_S, RedisClient
from presence_server.redis_io.coalescer import Coalescer
from presence_server.redis_io.contact import Contact
from presence_server.redis_io.keys import Keys
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.reunion import Reunion
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.wire import RoomEvents
from presence_server.session.directory import Directory

NONCE_INTERVAL_MAX_MS = 1_000
log = structlog.get_logger()


class Backbone(Protocol):
    """Store and bus, and what keeps them going."""

    @property
    def store(self) -> PresenceStore:
        """Return where presence is kept."""

    @property
    def bus(self) -> Bus[RoomEvent]:
        """Return what carries events from node to node."""

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Wire up whom events are for; called once, before `start`."""

    async def start(self, tasks: TaskGroup) -> None:
        """Begin background work; returns when the node may say that it is ready."""

    async def resume_secret(self) -> str | None:
        """Return the secret that nodes share for resume tokens; None: there is none to share."""

    def sweep(self) -> None:
        """Look at everything that has a deadline."""


class Alone:
    """A process on its own."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        presence = settings.presence
        self.bus: LocalBus[RoomEvent] = LocalBus()
        self.store = MemoryStore(self.bus, clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Events of rooms are for this process's rooms."""
        del directory
        self.bus.listener = rooms.receive

    async def start(self, tasks: TaskGroup) -> None:
        """Nothing runs in the background."""
        del tasks

    async def resume_secret(self) -> str | None:
        """Return None: a process on its own keeps its secret."""
        return None

    def sweep(self) -> None:
        """Have the store swept."""
        self.store.sweep()


class Together:
    """A node among others, through Redis or Valkey."""

    def __init__(self, settings: Settings, node: str, clock: Clock) -> None:
        presence = settings.presence
        self._settings = settings
        self._node = node
        self._clock = clock
        self._keys = keys = Keys(settings.redis.prefix)
        self._client = RedisClient(settings.redis.url)
        self._coalescer = Coalescer(self._client, TIMEOUT_S)
        interval_ms = min(presence.heartbeat_ms, NONCE_INTERVAL_MAX_MS)
        self._contact = Contact(self._client, keys.nonce_channel(node), self._record, interval_ms / 1000)
        timing = Timing(
            ttl_ms=presence.ttl_ms,
            hold_ms=2 * presence.heartbeat_ms,
            horizon_ms=max(presence.ttl_ms, presence.grace_clean_ms, presence.grace_lost_ms),
            claim_ms=presence.resume_ms,
        )
        self._shared = RedisStore(self._coalescer, keys, clock, timing, node)
        self.bus: RedisBus[RoomEvent] = RedisBus(self._coalescer, self._contact, keys, RoomEvents())
        island = MemoryStore(Island(self.bus), clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)
        self.store = SharedStore(self._shared, island, self._contact)
        self._coalescer.sources = [self._shared, self.bus]
        self._reunion: Reunion | None = None

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Events of rooms are for this node's rooms, claims for its connections."""
        self._reunion = reunion = Reunion(
            node=self._node,
            rooms=rooms,
            store=self.store,
            shared=self._shared,
            bus=self.bus,
            clock=self._clock,
            presence=self._settings.presence,
        )
        self._contact.lost = reunion.lost
        self._contact.back = reunion.back
        self._shared.answered = rooms.known

        def receive(room: str, event: RoomEvent) -> None:
            if isinstance(event, Delta):
                self._shared.heard(room, event)
            rooms.receive(room, event)

        self.bus.listener = receive
        node_channel = self._keys.node_channel(self._node)
        self._contact.subscribe(node_channel, lambda: None)
        hear_room = self._contact.heard

        def hear(channel: str, payload: bytes) -> None:
            if channel != node_channel:
                hear_room(channel, payload)
                return
            kind, *rest = msgspec.msgpack.decode(payload)
            if kind == "claimed":
                directory.claimed(*rest)

        self._contact.heard = hear
        directory.alone = lambda: self._contact.away

    async def start(self, tasks: TaskGroup) -> None:
        """Keep contact and run pipelines; wait a little for the store, which may be away."""
        tasks.start_soon(self._contact.run)
        tasks.start_soon(self._coalescer.run)
        with anyio.move_on_after(2 * TIMEOUT_S):
            await self._contact.made.wait()
        if self._contact.away:
            log.warning("the store cannot be reached; this node is an island until it can")

    async def resume_secret(self) -> str | None:
        """Return the secret that whichever node came first has made."""
        if self._contact.away:
            return None
        key, keep_ms = self._keys.resume_secret, 2 * self._settings.presence.resume_ms
        try:
            await self._client.execute("SET", key, secrets.token_hex(32), "NX", "PX", keep_ms)
            secret: bytes = await self._client.execute("GET", key)
        except AWAY:
            return None
        return secret.decode()

    def sweep(self) -> None:
        """Have the store swept, and views that have missed something read."""
        self.store.sweep()
        if self._reunion is not None:
            self._reunion.check()

    def _record(self) -> tuple[str | bytes | int, ...]:
        """Return the command that keeps this node's record."""
        record = msgspec.json.encode({"node": self._node})
        return ("SET", self._keys.node(self._node), record, "PX", self._settings.presence.ttl_ms)


class Island:
    """Where an island's store announces: this node's own rooms."""

    def __init__(self, bus: RedisBus[RoomEvent]) -> None:
        self._bus = bus

    def publish(self, room: str, event: Delta) -> None:
        """Deliver to this node."""
        self._bus.deliver(room, event)

    def subscribe(self, room: str, ready: Callable[[], None]) -> None:
        """Nobody subscribes on an island."""
        del room
        ready()

    def unsubscribe(self, room: str) -> None:
        """Nobody subscribes on an island."""
