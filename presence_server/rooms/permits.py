"""What a participant may do in a room, and with how large a document; what is not permitted raises `RequestError`."""

from collections.abc import Callable

from presence_server.config.settings import Action, LimitsSettings, RoomSettings
from presence_server.errors import RequestError
from presence_server.presence.operations import Leave
from presence_server.presence.port import PresenceStore
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Document
from presence_server.rooms.participant import Membership, Participant
from presence_server.rooms.rules import Rules


class Permits:
    """The rooms' rules, what credentials grant, bans, and the sizes of documents.

    `banned_until(user, room)` says when a user may come back to a room, in ms since 1970; 0: now.
    """

    def __init__(
        self,
        rules: Rules,
        limits: LimitsSettings,
        store: PresenceStore,
        banned_until: Callable[[str, str], int],
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._store = store
        self._banned_until = banned_until

    def permit(self, who: Participant, action: Action, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `forbidden` unless both they and the credentials allow `action`."""
        rules = self._rules.allowing(action, room)
        if who.grants is not None and not who.grants.allow(action, room):
            raise RequestError(
                ErrorCode.FORBIDDEN, f"the token does not allow {action!r} in this room", room=room
            )
        return rules

    def permit_entry(self, who: Participant, action: Action, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `forbidden` also where its user is banned from it."""
        rules = self.permit(who, action, room)
        if self._banned_until(who.user, room):
            if room not in who.memberships:
                # Its client hears of its removal here: once the ban is over, a join is not refused for that again.
                self._store.carry_out(room, Leave(who.cid, who.epoch, "kicked"), lambda _: None)
            raise RequestError(ErrorCode.FORBIDDEN, "this user is banned from this room", room=room)
        return rules

    def membership(self, who: Participant, room: str) -> Membership:
        """Return the participant's membership of a room; raise `not_joined` where it has none."""
        membership = who.memberships.get(room)
        if membership is None:
            self._rules.of(room)
            raise RequestError(ErrorCode.NOT_JOINED, "this connection is not in the room", room=room)
        return membership

    def check_state(self, room: str, state: Document) -> None:
        """Raise `too_large` for a state that is longer as JSON than one may be."""
        _check_size(room, "state", state, self._limits.state_bytes)

    def check_data(self, room: str, data: Document) -> None:
        """Raise `too_large` for data that is longer as JSON than a message: MessagePack may be a sixth of it."""
        _check_size(room, "data", data, self._limits.message_bytes)


def _check_size(room: str, what: str, document: Document, bytes_max: int) -> None:
    if len(document) > bytes_max:
        text = f"the {what} is {len(document)} bytes as JSON, more than {bytes_max}"
        raise RequestError(ErrorCode.TOO_LARGE, text, room=room)
