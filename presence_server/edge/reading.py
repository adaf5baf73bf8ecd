"""Reading in turns: what a client sends is handled at once, or held until it is its connection's turn.

Knows neither HTTP nor WebSocket: a `ReadConnection` says what bytes mean. A connection that keeps something is not read
from.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

import structlog
from websockets.frames import Frame

from presence_server.edge.request_parser import Request
from presence_server.edge.turns import Queue, Turns

SLICE_BYTES: Final = 1_024
"""Parsed at a time: the shortest frames that fit take about a millisecond to parse."""

Item: TypeAlias = bytes | Request | Frame
"""Bytes that are still to be parsed, or what was parsed of them."""

log = structlog.get_logger()


class ReadConnection(Protocol):
    """A connection, as its reader needs it."""

    key: str
    """The address whose newcomers take turns with those of others."""

    @property
    def cid(self) -> str:
        """The connection id of its session, for the log; "": it has none."""

    @property
    def queue(self) -> Queue:
        """The queue of what its client has just sent."""

    def is_blocked(self) -> bool:
        """Tell whether it must wait for something else, which then resumes the reader."""

    def parse_data(self, data: bytes) -> Sequence[Item]:
        """Return what `data` completes; after a request also the bytes that wait for its answer."""

    def handle_event(self, item: Request | Frame) -> None:
        """Handle one request or frame."""

    def end_slice(self, *, completed: bool) -> None:
        """Note that a part of what came was parsed, and whether it completed anything."""

    def write_protocol(self) -> None:
        """Write what the WebSocket protocol itself has to say to what was parsed."""

    def pause_transport(self) -> None:
        """Have the transport read nothing more."""

    def resume_transport(self) -> None:
        """Have the transport read again."""

    def wait_for_turn(self) -> None:
        """Note that a newcomer waits for this node, so that its handshake may take longer."""

    def wait_for_client(self) -> None:
        """Note that everything was handled: this node waits for the client again."""

    def abort(self) -> None:
        """Drop the socket at once."""


class Reader:
    """Reads one connection, in the turns that it is given."""

    __slots__ = ("_held", "_source", "_turns", "_waits")

    def __init__(self, source: ReadConnection, turns: Turns) -> None:
        self._source: ReadConnection | None = source
        """The connection that is read; None: its socket is gone. Kept, the reference would be a cycle."""
        self._turns = turns
        self._held: deque[Item] | None = None
        """The bytes received that must wait; None: nothing waits, and the transport reads."""
        self._waits = False
        """Whether the connection waits for its turn to read on."""

    @property
    def is_paused(self) -> bool:
        """Whether nothing more is read at present."""
        return self._held is not None

    @property
    def has_held(self) -> bool:
        """Whether something has come in that is not handled yet."""
        return bool(self._held)

    def read_or_keep(self, data: bytes) -> None:
        """Handle what has come in, or keep it until it is this connection's turn."""
        source = self._source
        if source is None:
            return
        if self._held is not None:
            self._held.extend(_slices(data))
        elif not self._turns.may_begin(source.queue):
            self._keep_data(_slices(data))
            self._wait_for_turn(source.queue)
        elif len(data) <= SLICE_BYTES:
            self._guard(source, self._read_slice, source, data)
        else:
            self._keep_data(_slices(data))
            self._guard(source, self._read_on, source)

    def pause(self) -> None:
        """Read nothing more until `resume`, `restart` or `drop_kept`."""
        self._keep_data(())

    def resume(self) -> None:
        """Take up reading where it was paused, behind the connections that have not had a slice yet."""
        if self._held is not None:
            self._wait_for_turn(Queue.BUSY)

    def restart(self) -> None:
        """Take up reading as one that has just sent what is kept."""
        if self._held and self._source is not None:
            self._wait_for_turn(self._source.queue)
        else:
            self.drop_kept()

    def drop_kept(self) -> None:
        """Drop what is kept, and read again."""
        if self._held is not None:
            self._held = None
            if self._source is not None:
                self._source.resume_transport()

    def stop_reading(self) -> None:
        """Read nothing any more: the socket is gone."""
        self._source = None
        self._held = None

    def take_step(self, step: Callable[..., None], *args: object) -> None:
        """Take a step of the handshake, now if this turn has time left."""
        turns, source = self._turns, self._source
        if source is None:
            return
        if not turns.slice_over or turns.may_begin(Queue.NEWCOMERS):
            self._take_step(step, *args)
        else:
            turns.queue_work(Queue.NEWCOMERS, source.key, partial(self._take_step, step, *args))

    def _take_step(self, step: Callable[..., None], *args: object) -> None:
        if self._source is not None:
            self._guard(self._source, step, *args)

    def _take_turn(self) -> None:
        """Read on: it is this connection's turn."""
        self._waits = False
        if self._source is not None:
            self._guard(self._source, self._read_on, self._source)

    @staticmethod
    def _guard(source: ReadConnection, work: Callable[..., None], *args: object) -> None:
        """Do some work; a fault in it ends this connection and no other."""
        try:
            work(*args)
        except Exception:
            log.exception("connection failed", cid=source.cid)
            source.abort()

    def _wait_for_turn(self, queue: Queue) -> None:
        """Read on when it is this connection's turn."""
        source = self._source
        if self._waits or source is None:
            return
        self._waits = True
        if queue is Queue.NEWCOMERS:
            self._turns.queue_work(queue, source.key, self._take_turn)
            source.wait_for_turn()
        else:
            self._turns.queue_work(queue, "", self._take_turn)

    def _read_slice(self, source: ReadConnection, data: bytes) -> None:
        """Parse and handle what fits one slice of the turn."""
        items = source.parse_data(data)
        turns = self._turns
        for number, item in enumerate(items):
            if self._held is None and (source.is_blocked() or (number and turns.slice_over)):
                self._keep_data(())
                self._wait_for_turn(Queue.BUSY)
            if self._held is not None:
                self._held.append(item)
            elif isinstance(item, bytes):
                self._read_slice(source, item)
            else:
                source.handle_event(item)
        source.end_slice(completed=bool(items))
        source.write_protocol()
        if self._held is None and source.is_blocked():
            self._keep_data(())

    def _read_on(self, source: ReadConnection) -> None:
        """Handle what was kept for one slice of the turn, and read on when nothing is left."""
        held = self._held
        if held is None or source.is_blocked():
            return
        turns = self._turns
        handled = parsed = 0
        while held and not source.is_blocked() and not (handled + parsed and turns.slice_over):
            item = held.popleft()
            if isinstance(item, bytes):
                parsed += 1
                held.extendleft(reversed(source.parse_data(item)))
            else:
                handled += 1
                source.handle_event(item)
        if handled or parsed:
            source.end_slice(completed=handled > 0)
        if source.is_blocked():
            return
        if held:
            self._keep_data(held)  # again, where the session has ended: its close frame may be among the rest
            self._wait_for_turn(Queue.NEWCOMERS if source.queue is Queue.NEWCOMERS else Queue.BUSY)
        else:
            self.drop_kept()
            source.wait_for_client()
            source.write_protocol()

    def _keep_data(self, items: Iterable[Item]) -> None:
        """Stop reading, and keep what has come in."""
        if self._held is None and self._source is not None:
            self._held = deque(items)
            self._source.pause_transport()


def _slices(data: bytes) -> list[bytes]:
    """Cut what was read into what is parsed at a time."""
    return [data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES)]
