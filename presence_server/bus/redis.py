"""The bus that nodes share: a channel a room, and a tick's events of a room in one PUBLISH."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from presence_server.redis_io.batcher import PipelineBatcher, Work
from presence_server.redis_io.client import is_away
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.store_errors import log_refused_call
from presence_server.redis_io.subscriber import Subscriber

PAYLOAD_BYTES_MAX: Final = 8_192
"""Longer payloads pile up in the server's buffer of a subscriber that is slow, until it is cut off."""
LATE_S: Final = 60.0
"""A PUBLISH that failed may still be carried out for so long after contact is back: its connection is closed, but
what was written to it may lie in a socket of the server."""
LATE_MAX: Final = 1_000
"""Payloads that are remembered for that; 8 MB."""

Event = TypeVar("Event")
Sent = Callable[[], None]
Gathered = tuple[Event, Sent | None]
log = structlog.get_logger()


class Parcel(Generic[Event]):
    """Events of a room that travel in one PUBLISH."""

    __slots__ = ("events", "is_delivered", "payload")

    def __init__(self, events: list[Gathered[Event]], payload: bytes) -> None:
        self.events = events
        self.payload = payload
        self.is_delivered = False
        """Whether it has come back over the channel, or has been delivered here in its place."""


class EventCodec(Protocol[Event]):
    """Encodes events as bytes, which the bus does not look into."""

    def pack(self, event: Event) -> bytes:
        """Return one event's bytes."""

    def join(self, packed: list[bytes]) -> bytes:
        """Return the payload that carries several events, in order."""

    def unpack(self, payload: bytes) -> list[Event]:
        """Return a payload's events. Raises `ValueError` for one of another format."""


def _nothing() -> None:
    """Do nothing."""


class RedisBus(Generic[Event]):
    """Carries events over Redis; while this node is isolated, to its own handlers.

    A PUBLISH that failed may have been carried out. So what comes back is compared with what is under way, and only
    what has not come back is delivered here after a failure. `isolate` is to be called when contact is lost.

    `is_isolated(room)` tells whether it is, as to a room; `mark_away(room, error)` is told where a call fails, and
    `contact_s()` says for how long there has been contact. `sharded` is for a server of a Cluster, where a room's
    channel is that of its slot.
    """

    def __init__(
        self,
        batcher: PipelineBatcher,
        subscriber: Subscriber,
        keys: Keys,
        codec: EventCodec[Event],
        *,
        is_isolated: Callable[[str], bool],
        mark_away: Callable[[str, Exception], None],
        contact_s: Callable[[], float],
        sharded: bool = False,
    ) -> None:
        self._sharded = sharded
        self._batcher = batcher
        self._subscriber = subscriber
        self._is_isolated = is_isolated
        self._mark_away = mark_away
        self._contact_s = contact_s
        self._keys = keys
        self._codec = codec
        self._gathered: dict[str, list[Gathered[Event]]] = {}
        self._under_way: dict[str, list[Parcel[Event]]] = {}
        """Events by room, in the order in which they are sent."""
        self._late: dict[tuple[str, bytes], None] = {}
        """Room and payload of what was delivered here because its PUBLISH failed."""
        self._handlers: dict[str, Callable[[Event], None]] = {}
        batcher.add_source(self)

    def __len__(self) -> int:
        return len(self._handlers)

    def subscribe(self, room: str, handler: Callable[[Event], None], ready: Callable[[], None]) -> None:
        """Begin to receive a room's events; at once, while this node is isolated."""
        self._handlers[room] = handler
        if self._is_isolated(room):
            self._subscribe(room)
            ready()
        else:
            self._subscribe(room, ready)

    def _subscribe(self, room: str, ready: Callable[[], None] | None = None) -> None:
        receive = partial(self._receive_payload, room, self._handlers[room])
        self._subscriber.subscribe(self._keys.channel(room), receive, ready, sharded=self._sharded)

    def rooms(self, is_concerned: Callable[[str], bool]) -> list[str]:
        """Return the rooms that are subscribed to, of those for which `is_concerned`."""
        return [room for room in self._handlers if is_concerned(room)]

    def move(self, room: str, other: "RedisBus[Event]") -> None:
        """Have the bus of another server receive a room, which is isolated, in place of this one."""
        handler = self._handlers[room]
        self.unsubscribe(room)
        other.subscribe(room, handler, _nothing)

    def subscribe_again(self, rooms: Sequence[str], ready: Callable[[], None]) -> None:
        """Subscribe to rooms again, isolated or not; `ready` is called when all are acknowledged."""
        outstanding = {*rooms}

        def acknowledged(room: str) -> None:
            outstanding.discard(room)
            if not outstanding:
                ready()

        if not rooms:
            ready()
        for room in rooms:
            self._subscribe(room, partial(acknowledged, room))

    def unsubscribe(self, room: str) -> None:
        """Stop receiving a room's events."""
        self._handlers.pop(room, None)
        self._subscriber.unsubscribe(self._keys.channel(room))

    def publish(self, room: str, event: Event, sent: Sent | None = None) -> None:
        """Send with this tick's payload of the room."""
        if self._is_isolated(room):
            self._send_here(room, event, sent)
            return
        self._gathered.setdefault(room, []).append((event, sent))
        self._batcher.wake()

    def deliver(self, room: str, event: Event) -> None:
        """Give an event to this node's handler of the room."""
        handler = self._handlers.get(room)
        if handler is not None:
            handler(event)

    def forget_late_payloads(self) -> None:
        """Forget what is not to be expected any more."""
        if self._late and self._contact_s() > LATE_S:
            self._late.clear()

    def take(self) -> list[Work]:
        """Return this tick's PUBLISH commands."""
        gathered, self._gathered = self._gathered, {}
        return [work for room, events in gathered.items() for work in self._publications(room, events)]

    def _publications(self, room: str, events: list[Gathered[Event]]) -> Iterator[Work]:
        """Yield the PUBLISH commands for a room: one, but for a great many bytes."""
        parcel: list[Gathered[Event]] = []
        packed: list[bytes] = []
        size = 0
        for event in events:
            row = self._codec.pack(event[0])
            if packed and size + len(row) > PAYLOAD_BYTES_MAX:
                yield self._publication(room, parcel, packed)
                parcel, packed, size = [], [], 0
            parcel.append(event)
            packed.append(row)
            size += len(row)
        yield self._publication(room, parcel, packed)

    def _publication(self, room: str, events: list[Gathered[Event]], packed: list[bytes]) -> Work:
        parcel = Parcel(events, self._codec.join(packed))
        self._under_way.setdefault(room, []).append(parcel)
        command = "SPUBLISH" if self._sharded else "PUBLISH"
        call = Call((command, self._keys.channel(room), parcel.payload))
        return Work(call, partial(self._published, room, call, parcel))

    def _published(self, room: str, call: Call, parcel: Parcel[Event], answer: Any) -> None:
        refused = isinstance(answer, Exception) and not is_away(answer)
        if refused:
            log_refused_call(call, answer, room)
        elif isinstance(answer, Exception):
            self._mark_away(room, answer)
        parcels = self._under_way.get(room, [])
        if parcel not in parcels:
            return  # contact was lost, and everybody has been told
        parcels.remove(parcel)
        if not parcels:
            del self._under_way[room]
        if isinstance(answer, Exception):
            self._give_here(room, parcel, may_come=not refused)
            return
        for _, sent in parcel.events:
            if sent is not None:
                sent()

    def isolate(self, is_concerned: Callable[[str], bool]) -> None:
        """Deliver to this node the events of these rooms that have not come back, or have not been sent."""
        for room in [room for room in self._under_way if is_concerned(room)]:
            for parcel in self._under_way.pop(room):
                self._give_here(room, parcel)
        for room in [room for room in self._gathered if is_concerned(room)]:
            for event, sent in self._gathered.pop(room):
                self._send_here(room, event, sent)

    def _give_here(self, room: str, parcel: Parcel[Event], *, may_come: bool = True) -> None:
        """Deliver to this node a payload that has not come back; `may_come`: it is ignored if it comes later."""
        if parcel.is_delivered:
            for _, sent in parcel.events:
                if sent is not None:
                    sent()
            return
        parcel.is_delivered = True
        if may_come:
            self._expect_late(room, parcel.payload)
        for event, sent in parcel.events:
            self._send_here(room, event, sent)

    def _expect_late(self, room: str, payload: bytes) -> None:
        """Ignore a payload that is delivered already when it comes; of too many the oldest is forgotten."""
        self._late.pop((room, payload), None)
        self._late[room, payload] = None
        if len(self._late) > LATE_MAX:
            del self._late[next(iter(self._late))]

    def _send_here(self, room: str, event: Event, sent: Sent | None) -> None:
        """Deliver an event to this node alone, and say that it was sent."""
        self.deliver(room, event)
        if sent is not None:
            sent()

    def _receive_payload(self, room: str, handler: Callable[[Event], None], payload: bytes) -> None:
        if self._is_isolated(room) or (self._late and self._was_late(room, payload)):
            return
        for parcel in self._under_way.get(room, ()):
            if not parcel.is_delivered and parcel.payload == payload:
                parcel.is_delivered = True
                break
        try:
            events = self._codec.unpack(payload)
        except ValueError as exc:
            log.warning("a message of a room cannot be read", room=room, error=str(exc))
            return
        for event in events:
            handler(event)

    def _was_late(self, room: str, payload: bytes) -> bool:
        """Tell whether this has been delivered here already, when its PUBLISH failed."""
        self.forget_late_payloads()
        if (room, payload) not in self._late:
            return False
        del self._late[room, payload]
        return True
