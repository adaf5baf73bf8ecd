"""The views of the rooms that somebody on this node is in."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from presence_server.bus.port import Bus
from presence_server.counters import Counts
from presence_server.errors import RequestError
from presence_server.hub.hub import Hub
from presence_server.presence.operations import Leave
from presence_server.presence.paging import FIRST_PAGE, is_cursor
from presence_server.presence.port import MemberPage, PresenceStore
from presence_server.presence.roster import Delta, Record, Snapshot
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Mode
from presence_server.rooms.context import NodeContext
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.observer import RoomsObserver
from presence_server.rooms.participant import Membership, Participant
from presence_server.rooms.rules import Rules
from presence_server.rooms.view import View
from presence_server.rooms.watched_roster import STORE_CURSOR

IDLE_MS: Final = 5_000
"""A room's view is kept for this long after its last watcher: who reloads a page is back before."""


class RoomViews:
    """A view of every room that somebody on this node is in.

    `observer` is told what concerns more than one room. `is_lingering(cid, room)` tells whether a member whose
    connection has ended here is within its grace.
    """

    def __init__(
        self,
        context: NodeContext,
        *,
        hub: Hub,
        store: PresenceStore,
        bus: Bus[RoomEvent],
        rules: Rules,
        observer: RoomsObserver,
        is_lingering: Callable[[str, str], bool],
    ) -> None:
        self._node = context.node
        self._hub = hub
        self._store = store
        self._bus = bus
        self._rules = rules
        self._clock = context.clock
        self._presence = context.presence
        self._limits = context.limits
        self._observer = observer
        self._is_lingering = is_lingering
        self.leaves: Counts[str] = Counts()
        """Leaves heard of, by reason."""
        self.snapshots = 0
        """Rooms read whole: for a first watcher here, or because something was missed."""
        self._views: dict[str, View] = {}
        self._behind: dict[View, None] = {}
        self._idle_since_ms: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[View]:
        return iter(self._views.values())

    def get(self, room: str) -> View | None:
        """Return the view of a room; None: nobody on this node is in it."""
        return self._views.get(room)

    @property
    def members_here(self) -> int:
        """The number of members whose connections are on this node, added up over rooms."""
        return sum(len(view.own.connected()) for view in self._views.values())

    def note_position(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        view = self._views.get(room)
        if view is not None:
            view.note_position(generation, seq, self._clock.now_ms())
            if view.feed.behind:
                self._behind[view] = None

    def read_behind_and_drop_idle(self) -> None:
        """Read the rooms whose views were behind for too long, and drop views without watchers for `IDLE_MS`."""
        now_ms = self._clock.now_ms()
        for view in list(self._behind):
            view.feed.read_if_behind(now_ms)
            if not view.feed.behind:
                del self._behind[view]
        for room, since_ms in list(self._idle_since_ms.items()):  # oldest first
            if now_ms - since_ms < IDLE_MS:
                break
            self._drop_view(room)

    def _receive_event(self, view: View, event: RoomEvent) -> None:
        """Count the leaves of an event from the bus, and give it to the store and the view."""
        if isinstance(event, Delta):
            self.leaves.update(leave.reason for leave in event.leaves)
            self._store.note_delta(view.room, event)
        view.receive_event(event)

    def add_membership(self, who: Participant, room: str, mode: Mode | None) -> Membership:
        """Return a new membership, in a new view of the room where this is the first on this node.

        Raises `RequestError` where the connection is in as many rooms as it may be, or nothing can be called that.
        """
        if len(who.memberships) >= self._limits.rooms:
            raise RequestError(
                ErrorCode.TOO_MANY_ROOMS, f"this connection is in {self._limits.rooms} rooms", room=room
            )
        rules = self._rules.of(room)
        view = self._views.get(room)
        if view is None:
            view = self._views[room] = View(
                room,
                rules,
                self._hub,
                self._read_snapshot,
                node=self._node,
                history_broken=self._history_broken,
                is_lingering=self._is_lingering,
                now_ms=self._clock.now_ms,
                fence_ms=2 * self._presence.ttl_ms,
                stale=self._observer.is_stale(room),
            )
            self._bus.subscribe(room, partial(self._receive_event, view), view.feed.load)
        self._idle_since_ms.pop(room, None)
        membership = Membership(view, who, mode or rules.mode)
        who.memberships[room] = view.memberships[who.cid] = membership
        return membership

    def remove_membership(self, membership: Membership) -> None:
        """Remove a membership from its room, whose view is dropped `IDLE_MS` after its last one."""
        view = membership.view
        del membership.participant.memberships[view.room]
        view.channel.remove_watcher(membership.cid)
        if view.memberships.get(membership.cid) is membership:
            del view.memberships[membership.cid]
        if not view.memberships:
            self._idle_since_ms[view.room] = self._clock.now_ms()

    def _drop_view(self, room: str) -> None:
        """Forget a room, and receive its events no more."""
        del self._idle_since_ms[room]
        self._behind.pop(self._views.pop(room), None)
        self._bus.unsubscribe(room)
        self._store.forget(room)

    def _read_snapshot(self, room: str, done: Callable[[Snapshot], None], members_max: int) -> None:
        self.snapshots += 1
        self._store.snapshot(room, done, members_max=members_max)

    def read_page(
        self, view: View, cursor: str | None, limit: int, done: Callable[[MemberPage | None], None]
    ) -> None:
        """Read a page of a crowded room from the store; None: it is out of reach.

        A cursor of when the room was not crowded begins anew: nobody is missed.
        """
        is_stored = cursor is not None and cursor.startswith(STORE_CURSOR)
        after = cursor.removeprefix(STORE_CURSOR) if cursor is not None and is_stored else FIRST_PAGE
        if not is_cursor(after):
            raise RequestError(ErrorCode.BAD_MESSAGE, "no page has given this cursor", room=view.room)
        self._store.page(view.room, after, limit, view.page_bytes_max, done)

    def _history_broken(self, room: str, ghosts: Sequence[Record]) -> None:
        """Remove members of this node that a restored store brought back, and say that rooms may have been lost."""
        for record in ghosts:
            self._store.carry_out(room, Leave(record.member.cid, record.epoch, "closed"), lambda _: None)
        self._observer.history_broken(room)
