"""What a client can do in a room: join, watch, leave, update, publish, signal, members.

Every verb checks what it must and then changes something, or raises `RequestError` and changes nothing. Where
the store has to be asked, the request is answered when its answer comes: at once, on the memory store.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.errors import RequestError
from presence_server.hub.hub import Hub
from presence_server.presence.port import MemberPage, PresenceStore
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Document, Member, Mode
from presence_server.rooms.context import NodeContext
from presence_server.rooms.endings import MembershipEndings
from presence_server.rooms.events import Publication, RoomEvent, Signalled
from presence_server.rooms.memberships import Memberships, documents_bytes
from presence_server.rooms.observer import RoomsObserver
from presence_server.rooms.participant import Participant, UntilAnswered, answered_at_once
from presence_server.rooms.permits import Permits
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.rules import Rules
from presence_server.rooms.view import View
from presence_server.rooms.views import RoomViews
from presence_server.rooms.watched_roster import STORE_CURSOR

SIGNAL_KEY_CHARS_MAX: Final = 128


class Rooms:
    """The verbs, over the views of rooms, and the memberships of this node and their endings."""

    def __init__(
        self,
        views: RoomViews,
        memberships: Memberships,
        endings: MembershipEndings,
        permits: Permits,
        *,
        hub: Hub,
        bus: Bus[RoomEvent],
        clock: Clock,
        observer: RoomsObserver,
        until_answered: UntilAnswered,
    ) -> None:
        self.views = views
        self.memberships = memberships
        self.endings = endings
        self._permits = permits
        self._hub = hub
        self._bus = bus
        self._clock = clock
        self._observer = observer
        self._until_answered = until_answered

    def join(self, request: RoomRequest, state: Document | None, mode: Mode | None) -> None:
        """Make the participant a member and a watcher; the reply is a sync. Again: an update if the state differs."""
        participant, room = request.participant, request.room
        rules = self._permits.permit_entry(participant, "join", room)
        if state is not None:
            self._permits.check_state(room, state)
        membership = participant.memberships.get(room)
        if membership is not None and membership.is_member:
            if state is not None and state != membership.state:
                self._permits.permit(participant, "update", room)
                # The reply to the join is the sync, so that an error of the update has no `id`.
                self.memberships.change(membership, state, RoomRequest(participant, None, room))
            self.memberships.add_watcher(membership, mode, request)
            return
        if membership is None:
            membership = self.views.add_membership(participant, room, mode)
        membership.become_member(self._clock.wall_ms())
        # Where it has to be entered again before this is answered it has what its client sent.
        membership.state = state
        membership.hold_requests()
        done: Callable[..., None] = partial(self.memberships.note_enter_answer, membership, mode, request)
        done = self._until_answered(participant, documents_bytes(participant.info, state), done)
        self.memberships.enter(membership, state, rules.members_max, done)

    def watch(self, request: RoomRequest, mode: Mode | None) -> None:
        """Make the participant a watcher; the reply is a sync."""
        participant, room = request.participant, request.room
        self._permits.permit_entry(participant, "watch", room)
        membership = participant.memberships.get(room) or self.views.add_membership(participant, room, mode)
        membership.hold_requests()
        membership.view.feed.when_live(partial(self.memberships.answer_with_sync, membership, mode, request))

    def leave(self, request: RoomRequest) -> None:
        """End membership and watching."""
        membership = self._permits.membership(request.participant, request.room)
        self.endings.leave(membership, request)

    def update(self, request: RoomRequest, state: Document, if_version: int | None) -> None:
        """Replace the member's state."""
        participant, room = request.participant, request.room
        membership = self._permits.membership(participant, room)
        if not membership.is_member:
            raise RequestError(ErrorCode.NOT_JOINED, "this connection only watches the room", room=room)
        self._permits.permit(participant, "update", room)
        self._permits.check_state(room, state)
        if if_version is not None and if_version != membership.v:
            raise RequestError(
                ErrorCode.CONFLICT, f"the member is at version {membership.v}", room=room, v=membership.v
            )
        self.memberships.change(membership, state, request)

    def publish(self, request: RoomRequest, data: Document) -> None:
        """Send `data` to every other watcher."""
        participant, room = request.participant, request.room
        self._permits.membership(participant, room)
        self._permits.permit(participant, "publish", room)
        self._permits.check_data(room, data)
        at = self._clock.wall_ms()
        sent = self._until_answered(participant, len(data), partial(request.ok, at=at))

        def send() -> None:
            publication = Publication(participant.cid, participant.user, participant.epoch, data, at)
            self._bus.publish(room, publication, sent)

        self._observer.when_entered(room, participant.cid, send)

    def signal(self, request: RoomRequest, key: str, data: Document) -> None:
        """Send `data` to every other watcher, or not, if there is too much to do."""
        participant, room = request.participant, request.room
        self._permits.membership(participant, room)
        self._permits.permit(participant, "signal", room)
        if len(key) > SIGNAL_KEY_CHARS_MAX:
            raise RequestError(
                ErrorCode.BAD_MESSAGE,
                f"a signal's key has at most {SIGNAL_KEY_CHARS_MAX} characters",
                room=room,
            )
        self._permits.check_data(room, data)
        if self._hub.sheds_signal():
            return
        sent = self._until_answered(participant, len(data), _nothing)

        def send() -> None:
            signalled = Signalled(participant.cid, participant.user, participant.epoch, key, data)
            self._bus.publish(room, signalled, sent)

        self._observer.when_entered(room, participant.cid, send)

    def members(
        self,
        request: RoomRequest,
        cursor: str | None,
        limit: int,
        reply: Callable[[list[Member], str | None], None],
    ) -> None:
        """Have `reply` called with a page of the roster, and the cursor of the next one."""
        participant = request.participant
        view = self._permits.membership(participant, request.room).view
        if view.holds_roster:
            reply(*view.page(cursor, limit))
            return
        done: Callable[..., None] = partial(self._reply_page, request, view, limit, reply)
        # It counts as much as it may bring: until it is answered its connection is not read from.
        done = self._until_answered(participant, view.page_bytes_max, done)
        self.views.read_page(view, cursor, limit, done)

    @staticmethod
    def _reply_page(
        request: RoomRequest,
        view: View,
        limit: int,
        reply: Callable[[list[Member], str | None], None],
        found: MemberPage | None,
    ) -> None:
        """Reply with what the store has, unless the roster is held by now: a sync of it may have been sent."""
        if view.holds_roster:
            reply(*view.page(None, limit))
        elif found is None:
            text = "the shared store is out of reach, and this node does not have the members of the room"
            request.refuse(RequestError(ErrorCode.UNAVAILABLE, text, room=view.room))
        else:
            following = found.following and STORE_CURSOR + found.following
            reply([record.member for record in found.records], following)


def _nothing() -> None:
    """Take note of nothing: a signal has no reply."""


def new_rooms(
    context: NodeContext,
    *,
    hub: Hub,
    store: PresenceStore,
    bus: Bus[RoomEvent],
    rules: Rules,
    banned_until: Callable[[str, str], int],
    observer: RoomsObserver,
    is_lingering: Callable[[str, str], bool],
    shared: bool,
) -> Rooms:
    """Return the rooms of a node; see `RoomViews`, `Memberships` and `Permits` for what they are given."""
    views = RoomViews(
        context, hub=hub, store=store, bus=bus, rules=rules, observer=observer, is_lingering=is_lingering
    )
    until_answered = Participant.until_answered if shared else answered_at_once
    endings = MembershipEndings(context, views, store=store, until_answered=until_answered)
    memberships = Memberships(
        context, views, endings, store=store, observer=observer, until_answered=until_answered, shared=shared
    )
    permits = Permits(rules, context.limits, store, banned_until)
    return Rooms(
        views,
        memberships,
        endings,
        permits,
        hub=hub,
        bus=bus,
        clock=context.clock,
        observer=observer,
        until_answered=until_answered,
    )
