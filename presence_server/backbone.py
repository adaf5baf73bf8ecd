"""What holds nodes together: store and bus, for a process on its own or for many through Redis."""

from collections.abc import Callable
from typing import Protocol

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from presence_server import __version__
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
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.reunion import Reunion
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.wire import RoomEvents
from presence_server.session.directory import Directory

NONCE_INTERVAL_MAX_MS = 1_000
REGISTER = Script("presence_server.redis_io", "register")
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

    async def stop(self) -> None:
        """Tell the others that this node is gone."""

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

    async def stop(self) -> None:
        """Nobody is to be told."""

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
        self._coalescer = Coalescer(self._client.lane(), TIMEOUT_S)
        interval_ms = min(presence.heartbeat_ms, NONCE_INTERVAL_MAX_MS)
        self._contact = Contact(
            self._client,
            keys.nonce_channel(node),
            self._register,
            interval_s=interval_ms / 1000,
            patience_s=presence.heartbeat_ms * 1.5 / 1000,
        )
        self._contact.registered = self._registered
        self._directory: Directory | None = None
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
        self._directory = directory
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
        else:
            await self._check_server()

    async def _check_server(self) -> None:
        """Warn of a server that may throw presence away."""
        try:
            answer = await self._client.execute("CONFIG", "GET", "maxmemory-policy")
        except AWAY:  # it need not be allowed
            return
        policy = bytes(answer.get(b"maxmemory-policy", b"noeviction")).decode()
        if policy != "noeviction":
            log.warning("the store may evict members; set maxmemory-policy noeviction", policy=policy)

    async def stop(self) -> None:
        """Take this node out of the registry."""
        expiry, records, _ = self._keys.nodes()
        with anyio.move_on_after(TIMEOUT_S):
            try:
                await self._client.execute("ZREM", expiry, self._node)
                await self._client.execute("HDEL", records, self._node)
            except AWAY as exc:
                log.info("this node stays in the registry until its record ends", error=str(exc))

    def sweep(self) -> None:
        """Have the store swept, and views that have missed something read."""
        self.store.sweep()
        if self._reunion is not None:
            self._reunion.check()

    def _register(self) -> Call:
        """Return the call that keeps this node's record, and agrees on the secret of resume tokens."""
        presence = self._settings.presence
        record = msgspec.json.encode({"node": self._node, "version": __version__})
        secret = ""
        if self._directory is not None and not self._settings.auth.resume_secret:
            secret = self._directory.tokens.secret
        secret_ms = 2 * presence.resume_ms
        arguments = (self._node, record, presence.ttl_ms, secret, secret_ms, self._keys.probe_channel())
        return script_call(REGISTER, self._keys.nodes(), arguments)

    def _registered(self, answer: list[int | bytes]) -> None:
        now_ms, secret = answer
        self._clock.follow(int(now_ms))
        if secret and self._directory is not None:
            self._directory.tokens.sign_with(bytes(secret).decode())


class Island:
    """Where an island's store announces: this node's own rooms."""

    def __init__(self, bus: RedisBus[RoomEvent]) -> None:
        self._bus = bus

    def publish(self, room: str, event: Delta, sent: Callable[[], None] | None = None) -> None:
        """Deliver to this node."""
        self._bus.deliver(room, event)
        if sent is not None:
            sent()

    def subscribe(self, room: str, ready: Callable[[], None]) -> None:
        """Nobody subscribes on an island."""
        del room
        ready()

    def unsubscribe(self, room: str) -> None:
        """Nobody subscribes on an island."""
