"""One function for each message that a client can send."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from presence_server.auth.identity import Credentials, Identity, IdentityError
from presence_server.errors import RequestError
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import (
    Auth,
    Join,
    Leave,
    Members,
    Page,
    Ping,
    Pong,
    Publish,
    SendSignal,
    Update,
    Watch,
)

if TYPE_CHECKING:
    from presence_server.session.session import Session

UNAVAILABLE: Final = HTTPStatus.SERVICE_UNAVAILABLE


def on_join(session: "Session", message: Join, request_id: int | None) -> None:
    """Become a member of a room."""
    state = None if message.state is UNSET else message.state
    mode = None if message.mode is UNSET else message.mode
    session.directory.rooms.join(session, message.room, state, mode, request_id)


def on_watch(session: "Session", message: Watch, request_id: int | None) -> None:
    """Watch a room."""
    mode = None if message.mode is UNSET else message.mode
    session.directory.rooms.watch(session, message.room, mode, request_id)


def on_leave(session: "Session", message: Leave, request_id: int | None) -> None:
    """Leave a room."""
    session.directory.rooms.leave(session, message.room, request_id)


def on_update(session: "Session", message: Update, request_id: int | None) -> None:
    """Replace the member's state."""
    if_version = None if message.if_version is UNSET else message.if_version
    session.directory.rooms.update(session, message.room, message.state, if_version, request_id)


def on_publish(session: "Session", message: Publish, request_id: int | None) -> None:
    """Send a message to a room."""
    session.directory.rooms.publish(session, message.room, message.data, request_id)


def on_signal(session: "Session", message: SendSignal, request_id: int | None) -> None:
    """Send a signal to a room; there is no reply to one that was sent."""
    del request_id
    session.directory.rooms.signal(session, message.room, message.key, message.data)


def on_members(session: "Session", message: Members, request_id: int | None) -> None:
    """Answer with a page of a roster."""
    cursor = None if message.cursor is UNSET else message.cursor
    members, following = session.directory.rooms.members(session, message.room, cursor, message.limit)
    page = Page(message.room, members, following, UNSET if request_id is None else request_id)
    session.outbox.answer(page)


def on_ping(session: "Session", message: Ping, request_id: int | None) -> None:
    """Answer with the time."""
    del message
    session.outbox.send(Pong(session.directory.clock.wall_ms(), UNSET if request_id is None else request_id))


def on_auth(session: "Session", message: Auth, request_id: int | None) -> None:
    """Take fresh credentials, which must be for the same user."""
    done = partial(_identified, session, request_id)
    session.directory.authenticator.identify(Credentials(token=message.token), done)


def _identified(session: "Session", request_id: int | None, identity: Identity | IdentityError) -> None:
    if session.ended:
        return
    if isinstance(identity, IdentityError):
        code = ErrorCode.UNAVAILABLE if identity.status == UNAVAILABLE else identity.code
        session.refuse(RequestError(code, identity.detail), request_id)
    elif identity.user != session.user:
        text = "the token is not valid for this connection's user"
        session.refuse(RequestError(ErrorCode.UNAUTHORIZED, text), request_id)
    else:
        session.ok(request_id)
        session.directory.take_credentials(session, identity)


VERBS: Final[dict[type, Callable[["Session", Any, int | None], None]]] = {
    Join: on_join,
    Watch: on_watch,
    Leave: on_leave,
    Update: on_update,
    Publish: on_publish,
    SendSignal: on_signal,
    Members: on_members,
    Ping: on_ping,
    Auth: on_auth,
}
