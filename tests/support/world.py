"""A whole node without sockets: everything between the edge and the store, on a clock that is moved by hand.

world = World()
ann, bob = world.connect("ann"), world.connect("bob")
ann.send(Join("lobby"))
bob.ask(Join("lobby"))      # the sync
ann.take()                  # a diff: bob joins
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from presence_server.auth.anonymous import Anonymous
from presence_server.auth.identity import Authenticator, Identity
from presence_server.bus.memory import MemoryBus
from presence_server.config.settings import LimitsSettings, PresenceSettings, RoomSettings, ThrottleSettings
from presence_server.errors import RequestError
from presence_server.hub.hub import Hub
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import Enter, Leave
from presence_server.presence.roster import Snapshot
from presence_server.protocol.codec import JSON, Codec, document
from presence_server.protocol.codes import CloseCode, Ending, ending
from presence_server.protocol.messages import ClientMessage, Member, ServerMessage, Welcome
from presence_server.registry.memory import MemoryRegistry
from presence_server.registry.port import NodeStatus
from presence_server.rooms.context import NodeContext
from presence_server.rooms.rooms import new_rooms
from presence_server.rooms.rules import Rules
from presence_server.session.directory import Directory
from presence_server.session.lingers import Lingers
from presence_server.session.message_rate import MessageRateLimit
from presence_server.session.resume import ResumeTokens
from presence_server.throttle import Limiter
from tests.support.handclock import HandClock
from tests.support.recording import LengthPrefixed, RecordingObserver, RecordingWire

if TYPE_CHECKING:
    from presence_server.rooms.events import RoomEvent
    from presence_server.session.session import Session

SWEEP_MS: Final = 250
BEATS: Final = 10
TICKS_MAX: Final = 10_000
DAY_MS: Final = 86_400_000
ServerMessageT = TypeVar("ServerMessageT", bound=ServerMessage)


class World:
    """One node. `pass_ms` moves time and does what is due on the way: ticks, sweeps, heartbeats.

    A heartbeat is spread over `beats` parts; with 1, all rooms are beaten at once. `now_s` is the clock by which ticks
    write for a bounded time; by default it stands still.
    """

    def __init__(
        self,
        *,
        rooms: Sequence[RoomSettings] = (),
        presence: PresenceSettings | None = None,
        limits: LimitsSettings | None = None,
        beats: int = BEATS,
        limiter: Limiter | None = None,
        throttle: ThrottleSettings | None = None,
        authenticator: Authenticator | None = None,
        shared: bool = False,
        now_s: Callable[[], float] = float,
        store_type: type[PresenceMemoryStore] = PresenceMemoryStore,
    ) -> None:
        self.clock = HandClock()
        self.presence = presence or PresenceSettings()
        self.limits = limits or LimitsSettings()
        self.node = "node-1"
        self.beating = True
        """Whether heartbeats go out; False is a node that forgets its members."""
        self.overloaded = False
        """Whether signals are dropped."""
        self.hub = Hub(
            self._wake,
            soft_bytes=self.limits.outbox_soft_bytes,
            hard_bytes=self.limits.outbox_hard_bytes,
            hard_ms=self.limits.outbox_hard_ms,
            total_bytes=self.limits.outbox_total_bytes,
            sheds_signal=lambda: self.overloaded,
            now_s=now_s,
        )
        self.bus: MemoryBus[RoomEvent] = MemoryBus()
        self.store = store_type(
            self.bus, self.clock, ttl_ms=self.presence.ttl_ms, claim_ms=self.presence.resume_ms
        )
        self.directory: Directory
        self.registry = MemoryRegistry(
            lambda: NodeStatus(self.node, "0"),
            lambda: self.directory,
            node=self.node,
            clock=self.clock,
            last_seen_ms=self.presence.last_seen_ms,
        )
        self.observer = RecordingObserver()
        lingers = Lingers(self.clock)
        context = NodeContext(self.node, self.clock, self.presence, self.limits)
        self.rooms = new_rooms(
            context,
            hub=self.hub,
            store=self.store,
            bus=self.bus,
            rules=Rules(rooms),
            banned_until=self.registry.banned_until,
            observer=self.observer,
            is_lingering=lingers.is_lingering,
            shared=shared,
        )
        self.directory = Directory(
            context,
            rooms=self.rooms,
            store=self.store,
            authenticator=authenticator or Anonymous(self.limits.info_bytes),
            tokens=ResumeTokens("a secret", self.presence.resume_ms),
            message_rate=MessageRateLimit(limiter or Limiter(), throttle or ThrottleSettings(messages="")),
            registry=self.registry,
            is_isolated=lambda _: False,
            lingers=lingers,
        )
        self.encodings: dict[str, LengthPrefixed] = {}
        self.beaten_ms = self.clock.now_ms()
        """When heartbeats last went out."""
        self._beats = beats
        self._wake_at_ms: int | None = None
        self._sweep_at_ms = self.clock.now_ms() + SWEEP_MS
        self._beat_at_ms = self.clock.now_ms() + self._beat_every_ms
        self._beat_part = 0

    def connect(
        self,
        user: str = "ann",
        info: dict[str, Any] | None = None,
        *,
        resume: str | None = None,
        codec: Codec = JSON,
        soft_bytes: int = 0,
        identity: Identity | None = None,
    ) -> "Client":
        """Let a client in, welcomed; `identity` is what its credentials say, where they say more."""
        encoding = self.encodings.setdefault(codec.subprotocol, LengthPrefixed(codec))
        identity = identity or Identity(user, document(info or {}))
        return Client(self, identity, resume, encoding, soft_bytes)

    # --- time ---

    def settle(self) -> None:
        """Tick until nothing more is to be done now."""
        for _ in range(TICKS_MAX):
            if self._wake_at_ms is None or self._wake_at_ms > self.clock.now_ms():
                return
            self.tick()
        raise AssertionError("the hub asks for one tick after the other without end")

    def tick(self) -> None:
        """Tick once."""
        self._wake_at_ms = None
        self.hub.tick(self.clock.now_ms())

    def pass_ms(self, ms: int) -> None:
        """Let time pass, doing at its time what is due."""
        until_ms = self.clock.now_ms() + ms
        self.settle()
        while True:
            next_ms = min(self._sweep_at_ms, self._beat_at_ms)
            if self._wake_at_ms is not None:
                next_ms = min(next_ms, self._wake_at_ms)
            if next_ms > until_ms:
                break
            self.clock.move(max(0, next_ms - self.clock.now_ms()))
            self._do_what_is_due()
        self.clock.move(until_ms - self.clock.now_ms())

    def _do_what_is_due(self) -> None:
        now_ms = self.clock.now_ms()
        if self._beat_at_ms <= now_ms:
            self._beat_at_ms += self._beat_every_ms
            self.beat()
        if self._sweep_at_ms <= now_ms:
            self._sweep_at_ms += SWEEP_MS
            self.sweep()
        self.settle()

    def beat(self) -> None:
        """Send the next part of the heartbeat."""
        if self.beating:
            self.beaten_ms = self.clock.now_ms()
            self.rooms.memberships.beat(self._beat_part, self._beats)
        self._beat_part = (self._beat_part + 1) % self._beats

    def sweep(self) -> None:
        """Look at everything that has a deadline."""
        self.hub.close_stuck(self.clock.now_ms())
        self.store.sweep_expired()
        self.directory.sweep_sessions()
        self.rooms.views.read_behind_and_drop_idle()

    @property
    def _beat_every_ms(self) -> int:
        return max(1, self.presence.heartbeat_ms // self._beats)

    def _wake(self, delay_ms: int) -> None:
        at_ms = self.clock.now_ms() + max(0, delay_ms)
        if self._wake_at_ms is None or at_ms < self._wake_at_ms:
            self._wake_at_ms = at_ms

    # --- what there is ---

    def snapshot(self, room: str) -> Snapshot:
        """Read a room from the store."""
        snapshots: list[Snapshot] = []
        self.store.snapshot(room, snapshots.append)
        (snapshot,) = snapshots
        return snapshot

    def roster(self, room: str) -> dict[str, Member]:
        """Return the store's members of a room by cid, with their documents decoded."""
        return {record.member.cid: plain(record.member) for record in self.snapshot(room).records}

    def populate(self, room: str, number: int, *, start: int = 0) -> list[str]:
        """Put members without connections into a room, as other nodes would, and return their cids."""
        cids = [f"bot-{n:05}" for n in range(start, start + number)]
        for cid in cids:
            enter = Enter(cid, cid, document({}), None, 1, "node-2", DAY_MS)
            self.store.carry_out(room, enter, lambda _: None)
        return cids

    def remove(self, room: str, cids: Sequence[str]) -> None:
        """Take members without connections out of a room."""
        for cid in cids:
            self.store.carry_out(room, Leave(cid, 1, "left"), lambda _: None)

    def leftovers(self) -> dict[str, object]:
        """Return every internal map that still holds something; {} when nothing is left of anybody."""
        hub, store = self.hub, self.store
        kept = {
            "store": store._rooms,
            "claims": store._claims,
            "users whose tokens ended": store._user_ends,
            "rooms queued": store._queued_ms,
            "queue of rooms": store._due,
            "bus": self.bus._handlers,
            "views": self.rooms.views._views,
            "sessions": self.directory._sessions,
            "users": self.directory._users,
            "lingers": self.directory.lingers._by_cid,
            "users who linger": self.directory.lingers._by_user,
            "opaque sessions that linger": self.directory.lingers._by_opaque,
            "opaque sessions": self.directory._opaque,
            "users in the registry": self.registry._users,
            "dirty outboxes": hub.dirty,
            "outboxes carried": hub.backlog,
            "active channels": hub._active,
            "channels due later": hub._later,
            "outboxes behind": hub._behind,
            "outboxes recovering": hub._recovering,
            "outboxes too slow": hub._too_slow,
        }
        return {name: value for name, value in kept.items() if value}

    def outlive_everything(self) -> None:
        """Let so much time pass that nothing may be remembered any more, once nobody is connected."""
        self.pass_ms(self.presence.ttl_ms + self.presence.grace_lost_ms)
        self.pass_ms(2 * self.presence.ttl_ms + SWEEP_MS)
        self.clock.move(self.presence.resume_ms)
        self.sweep()
        self._sweep_at_ms = self._beat_at_ms = self.clock.now_ms() + SWEEP_MS
        self.settle()


class Client:
    """A client's end of a connection, which says and hears message structs."""

    def __init__(
        self, world: World, identity: Identity, resume: str | None, encoding: LengthPrefixed, soft_bytes: int
    ) -> None:
        self._world = world
        self._codec = encoding.codec
        self._ids = count(1)
        self._inbox: list[ServerMessage] = []
        self._ended = False
        self.ended_ms: int | None = None
        """When the connection ended."""
        self.wire = RecordingWire(encoding, soft_bytes)
        self.outbox = self.wire.outbox = world.hub.new_outbox(encoding, self.wire)
        self.wire.on_close = self._closed_by_server
        self.session: Session
        world.directory.open_session(identity, resume, self.outbox, self._opened)
        self.outbox.flush()
        welcome = self.wire.take()[0]
        assert isinstance(welcome, Welcome)
        self.welcome = welcome
        self.cid = welcome.cid
        self.resume = welcome.resume

    def _opened(self, session: "Session") -> None:
        self.session = session

    @property
    def is_open(self) -> bool:
        """Whether neither end has closed."""
        return not self._ended

    @property
    def closed_with(self) -> int | None:
        """The code with which the server closed, or None."""
        return None if self.wire.closed_with is None else self.wire.closed_with.code

    def send(self, *messages: ClientMessage) -> None:
        """Send messages; nothing is told to anybody before the next tick."""
        for message in messages:
            self.send_bytes(self._codec.encode(message))

    def send_bytes(self, payload: bytes) -> None:
        """Send one message as the bytes that it is."""
        assert self.is_open, "sent on a closed connection"
        try:
            message = self._codec.decode(payload, self._world.limits.message_items)
        except RequestError as error:
            self.session.refuse_unread(error)
        else:
            self.session.receive_message(message)

    def ask(self, message: ClientMessage) -> ServerMessage:
        """Send a request and return its one reply, leaving what else came for `take`."""
        request_id = next(self._ids)
        self.send(msgspec.structs.replace(message, id=request_id))
        self._world.settle()
        self._inbox += self.wire.take()
        (reply,) = [m for m in self._inbox if getattr(m, "id", None) == request_id]
        self._inbox.remove(reply)
        return reply

    def take(self) -> list[ServerMessage]:
        """Let what is due now happen, and return what has come since the last call."""
        self._world.settle()
        messages = self._inbox + self.wire.take()
        self._inbox = []
        return messages

    def take_only(self, kind: type[ServerMessageT]) -> list[ServerMessageT]:
        """Return what has come since the last call, of one kind."""
        return [message for message in self.take() if isinstance(message, kind)]

    def drop(self, how: Ending = Ending.LOST) -> None:
        """End the connection from the client's side, or by the network."""
        if not self._ended:
            self._ended = True
            self.ended_ms = self._world.clock.now_ms()
            self.outbox.flush()
            self.outbox.detach_wire()
            self.session.leave_all_rooms(how)

    def _closed_by_server(self, code: CloseCode) -> None:
        if not self._ended:
            self.session.say_bye(code)
            self.drop(ending(code.code))


def plain(member: Member) -> Member:
    """Return a member of the store as clients see it: with its documents decoded."""
    info, state = (msgspec.json.decode(msgspec.json.encode(part)) for part in (member.info, member.state))
    return Member(member.cid, member.user, info, state, member.v, member.at)
