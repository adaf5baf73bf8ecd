"""Every message of the wire protocol as a tagged struct; `t` is the tag.

The same structs serve both ends. Optional fields that are None are absent on the wire. A `Document` is
a JSON value: the server keeps it as validated JSON text (`msgspec.Raw`) from the moment it was
read to the moment it is written; a client decodes it.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    Absent: TypeAlias = None
else:
    # A field that is left out is None here. On the wire it is never null (docs/wire.md): the decoder, for which
    # the type is `UnsetType`, refuses null.
    Absent = msgspec.UnsetType

TYPE_FIELD: Final = "t"
REQUEST_ID_MAX: Final = 2**53 - 1
Document = Any
"""A JSON value: `msgspec.Raw` JSON text inside the server, plain Python in a client."""
Mode = Literal["full", "count", "none"]
"""The part of the roster that a watcher is sent: all of it, its numbers, or nothing."""
Reason = Literal["left", "closed", "timeout", "kicked"]
"""Why a member is gone: asked to, closed cleanly, lost, or removed."""
RemovalReason = Literal["kicked", "forbidden"]
"""Why a connection was taken out of a room: by a backend, or because its credentials no longer cover it."""
RequestId = Annotated[int, Meta(ge=0, le=REQUEST_ID_MAX)]


class Message(msgspec.Struct, tag_field=TYPE_FIELD, omit_defaults=True, gc=False):
    """Anything that travels on a connection."""


# --- client to server ---


class Join(Message, tag="join"):
    """Become a member and a watcher of `room`."""

    room: str
    state: dict[str, Document] | Absent = None
    mode: Mode | Absent = None
    id: RequestId | Absent = None


class Watch(Message, tag="watch"):
    """Receive what happens in `room` without appearing in it."""

    room: str
    mode: Mode | Absent = None
    id: RequestId | Absent = None


class Leave(Message, tag="leave"):
    """Stop being a member and a watcher of `room`."""

    room: str
    id: RequestId | Absent = None


class Update(Message, tag="update"):
    """Replace this member's whole state, if it is at `if_version` where that is given."""

    room: str
    state: dict[str, Document]
    if_version: Annotated[int, Meta(ge=0, le=REQUEST_ID_MAX)] | Absent = None
    id: RequestId | Absent = None


class Publish(Message, tag="publish"):
    """Send `data` to every other watcher of `room`."""

    room: str
    data: Document
    id: RequestId | Absent = None


class SendSignal(Message, tag="signal"):
    """Send `data` to every other watcher now; only the latest of each `key` counts."""

    room: str
    key: str
    data: Document
    id: RequestId | Absent = None


class Members(Message, tag="members"):
    """Ask for a page of the roster of `room`."""

    room: str
    cursor: str | Absent = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 500
    id: RequestId | Absent = None


class Ping(Message, tag="ping"):
    """Ask for a `pong`, to measure the round trip."""

    id: RequestId | Absent = None


class Auth(Message, tag="auth"):
    """Replace this connection's credentials before they end."""

    token: str
    id: RequestId | Absent = None


ClientMessage = Join | Watch | Leave | Update | Publish | SendSignal | Members | Ping | Auth

# --- server to client ---


class Member(msgspec.Struct, frozen=True, gc=False):
    """One entry of a roster: a connection that joined.

    `v` counts from 1 and goes up by one with every update of `state`; `at` is when it joined, in ms
    since 1970 by the store's clock.
    """

    cid: str
    user: str
    info: Document
    state: Document
    v: int
    at: int


class MemberUpdate(msgspec.Struct, frozen=True, gc=False):
    """A member's new state and version."""

    cid: str
    state: Document
    v: int


class MemberLeave(msgspec.Struct, frozen=True, gc=False):
    """A member that is gone, and why."""

    cid: str
    user: str
    reason: Reason


class Welcome(Message, tag="welcome", omit_defaults=False):
    """The first message to every connection: its id, its user, and the server's settings."""

    cid: str
    user: str
    info: Document
    resumed: bool
    resume: str
    node: str
    ping_ms: int
    time: int
    limits: dict[str, int]


class Ok(Message, tag="ok"):
    """The request was carried out; `v` after an update, `at` after a publish."""

    id: int
    v: int | Absent = None
    at: int | Absent = None


class Sync(Message, tag="sync"):
    """A room as it is: what follows are changes newer than this.

    `members` holds the first 500; the rest comes with `members` from `cursor`.
    """

    room: str
    mode: Mode
    you: bool
    seq: int
    count: int
    users: int
    members: Document
    cursor: str | None
    stale: bool
    id: int | Absent = None


class Page(Message, tag="page"):
    """A page of a roster; `cursor` is null at its end."""

    room: str
    members: Document
    cursor: str | None
    id: int | Absent = None


class Diff(Message, tag="diff"):
    """The changes of a roster; a cid appears at most once."""

    room: str
    seq: int
    count: int
    users: int
    joins: tuple[Member, ...] = ()
    updates: tuple[MemberUpdate, ...] = ()
    leaves: tuple[MemberLeave, ...] = ()


class Count(Message, tag="count"):
    """The number of members of a room, and of distinct users among them."""

    room: str
    count: int
    users: int


class Published(Message, tag="message", omit_defaults=False):
    """A message that a watcher published; `cid` and `user` are null when a backend did."""

    room: str | None
    cid: str | None
    user: str | None
    data: Document
    at: int


class Signal(Message, tag="signal"):
    """The latest of a member's transient values under `key`: a cursor, typing."""

    room: str
    cid: str
    user: str
    key: str
    data: Document


class Removed(Message, tag="removed"):
    """The room's last message: this connection was taken out of `room`, and stays open."""

    room: str
    reason: RemovalReason


class Stale(Message, tag="stale"):
    """Whether other nodes' members of `room` may be out of date."""

    room: str
    stale: bool


class Pong(Message, tag="pong"):
    """The answer to `ping`; `time` in ms since 1970 by the node's clock."""

    time: int
    id: int | Absent = None


class Resume(Message, tag="resume"):
    """A fresh resume token, which replaces the last one."""

    resume: str


class Error(Message, tag="error"):
    """A request was refused."""

    code: str
    message: str
    id: int | Absent = None
    room: str | Absent = None
    retry_after_ms: int | Absent = None
    v: int | Absent = None


class Bye(Message, tag="bye"):
    """The last message before the server closes."""

    code: int
    reason: str
    reconnect_ms: int | Absent = None


ServerMessage = (
    Welcome
    | Ok
    | Sync
    | Page
    | Diff
    | Count
    | Published
    | Signal
    | Removed
    | Stale
    | Pong
    | Resume
    | Error
    | Bye
)
