"""One function for each message that a client can send."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from presence_server.auth.identity import Credentials, Identity, IdentityError
from presence_server.errors import RequestError
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import (
    Auth,
    Join,
    Leave,
    Member,
    Members,
    Page,
    Ping,
    Pong,
    Publish,
    SendSignal,
    Update,
    Watch,
)
from presence_server.rooms.request import Request, RoomRequest

if TYPE_CHECKING:
    from presence_server.session.session import Session

UNAVAILABLE: Final = HTTPStatus.SERVICE_UNAVAILABLE


def on_join(session: "Session", message: Join, request: RoomRequest) -> None:
    """Make the connection a member of a room."""
    session.directory.rooms.join(request, message.state, message.mode)


def on_watch(session: "Session", message: Watch, request: RoomRequest) -> None:
    """Make the connection a watcher of a room."""
    session.directory.rooms.watch(request, message.mode)


def on_leave(session: "Session", message: Leave, request: RoomRequest) -> None:
    """End the connection's membership of a room."""
    del message
    session.directory.rooms.leave(request)


def on_update(session: "Session", message: Update, request: RoomRequest) -> None:
    """Replace the member's state."""
    session.directory.rooms.update(request, message.state, message.if_version)


def on_publish(session: "Session", message: Publish, request: RoomRequest) -> None:
    """Send a message to a room."""
    session.directory.rooms.publish(request, message.data)


def on_signal(session: "Session", message: SendSignal, request: RoomRequest) -> None:
    """Send a signal to a room; there is no reply to one that was sent."""
    session.directory.rooms.signal(request, message.key, message.data)


def on_members(session: "Session", message: Members, request: RoomRequest) -> None:
    """Answer with a page of a roster."""

    def reply(members: list[Member], following: str | None) -> None:
        request.participant.outbox.send_roster(Page(request.room, members, following, request.id))

    session.directory.rooms.members(request, message.cursor, message.limit, reply)


def on_ping(session: "Session", message: Ping, request: Request) -> None:
    """Answer with the time."""
    del message
    request.participant.outbox.send_message(Pong(session.directory.clock.wall_ms(), request.id))


def on_auth(session: "Session", message: Auth, request: Request) -> None:
    """Check fresh credentials, which must be for the same user."""
    done = partial(_identified, session, request)
    session.directory.authenticator.identify(Credentials(token=message.token), done)


def _identified(session: "Session", request: Request, identity: Identity | IdentityError) -> None:
    if session.ended:
        return
    if isinstance(identity, IdentityError):
        code = ErrorCode.UNAVAILABLE if identity.status == UNAVAILABLE else identity.code
        request.refuse(RequestError(code, identity.detail))
    elif identity.user != session.user:
        text = "the token is not valid for this connection's user"
        request.refuse(RequestError(ErrorCode.UNAUTHORIZED, text))
    else:
        request.ok()
        session.directory.take_credentials(session, identity)


VERBS: Final[dict[type, Callable[["Session", Any, Any], None]]] = {
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
