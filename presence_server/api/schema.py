"""The bodies that the internal port takes and returns; validation and the OpenAPI document both come from them.

Durations end in `_ms`; times are ms since 1970 by the store's clock.
"""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from presence_server.grants import GrantList
from presence_server.registry.bans import CURSOR_PATTERN
from presence_server.registry.port import NodeStatus, UserConnection

PAGE_MAX: Final = 1_000
USERS_MAX: Final = 1_000
ROOMS_MAX: Final = 100
LEASE_MS_MAX: Final = 86_400_000
YEAR_MS: Final = 366 * 86_400_000
NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]+(?!\n)$"
USER_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*(?!\n)$"
"""Here and below: `$` alone would let a line end pass."""

Room = Annotated[
    str, Meta(min_length=1, max_length=164, pattern=r"^[A-Za-z0-9_\-=@,.;:/+]+(?!\n)$", description="A room")
]
Cid = Annotated[
    str,
    Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:@-]+(?!\n)$", description="A member of a room"),
]
User = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=USER_PATTERN,
        description="A user; no control characters. Compared in NFC, without blanks around it",
    ),
]
Token = Annotated[
    str, Meta(min_length=1, max_length=512, pattern=NAME_PATTERN, description="A session's token")
]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="How many to return")]
Cursor = Annotated[
    str, Meta(max_length=256, description="Where the page begins: the cursor that the last one gave")
]
MembersCursor = Annotated[
    str,
    Meta(
        pattern=r"^(scan:[0-9]{1,19}|after:[^\x00-\x1f]{1,128})(?!\n)$",
        description="Where the page begins: the cursor that the last one gave",
    ),
]
BansCursor = Annotated[
    str,
    Meta(
        pattern=rf"^{CURSOR_PATTERN}(?!\n)$",
        description="Where the page begins: the cursor that the last one gave",
    ),
]
Lease = Annotated[int, Meta(ge=1_000, le=LEASE_MS_MAX, description="How long it lasts, unless renewed, ms")]
BanMs = Annotated[int, Meta(ge=0, le=YEAR_MS, description="How long a ban lasts, ms; 0: lift it")]
RuleName = Annotated[str, Meta(min_length=1, max_length=64, description="The name of a rule")]
ThrottleKey = Annotated[str, Meta(min_length=1, max_length=512, description="Who is counted")]


class RequestBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request. An unknown field is refused, since it is likely a slip."""


# --- rooms ---


class RoomsQuery(RequestBody, frozen=True):
    """The rooms to list."""

    prefix: Annotated[str, Meta(max_length=164, description="What their names begin with")] = ""
    cursor: Cursor | UnsetType = UNSET
    limit: Limit = 100


class MembersQuery(RequestBody, frozen=True):
    """The members to list."""

    cursor: MembersCursor | UnsetType = UNSET
    limit: Limit = 500


class RoomAnswer(Struct, frozen=True):
    """The number of members of a room, and of distinct users among them."""

    room: str
    count: int
    users: int


class RoomsAnswer(Struct, frozen=True):
    """A page of the rooms that have members; `cursor` null: the last."""

    rooms: list[RoomAnswer]
    cursor: str | None


class MemberAnswer(Struct, frozen=True):
    """A member: a connection, or what a backend has entered. `v` is the version of its state."""

    cid: str
    user: str
    info: dict[str, Any]
    state: dict[str, Any]
    v: int
    at: int


class MembersAnswer(Struct, frozen=True):
    """A page of a room's members; `cursor` null: the last."""

    members: list[MemberAnswer]
    cursor: str | None


class ManyMembersRequest(RequestBody, frozen=True):
    """The rooms to list the members of, and how many of each."""

    rooms: Annotated[list[Room], Meta(max_length=ROOMS_MAX)]
    limit: Limit = 100


class ManyMembersAnswer(Struct, frozen=True):
    """A first page of each room's members, by room; `cursor` null: all of them."""

    rooms: dict[str, MembersAnswer]


class RemoveQuery(RequestBody, frozen=True):
    """`ban_ms`: refuse the member's user in this room for so long, too; 0: lift such a ban; left out: leave it."""

    ban_ms: BanMs | UnsetType = UNSET


class EnterRequest(RequestBody, frozen=True):
    """A member without a socket; it is gone `ttl_ms` after the last call that named it."""

    user: User
    info: dict[str, Any] = {}
    state: dict[str, Any] = {}
    ttl_ms: Lease = 60_000


class MessageRequest(RequestBody, frozen=True):
    """Something to send: anything that JSON can say."""

    data: Any


class SentAnswer(Struct, frozen=True):
    """The time at which the message was sent."""

    at: int


# --- users ---


class ConnectionAnswer(Struct, frozen=True):
    """One connection, with the rooms that it is a member or a watcher of; null: its node did not say in time."""

    cid: str
    node: str
    at: int
    rooms: list[str] | None


class UserAnswer(Struct, frozen=True):
    """The connections of a user. `last_seen` is now for a user who is online; null: never seen, or too long ago."""

    user: str
    online: bool
    connections: list[ConnectionAnswer]
    last_seen: int | None


class StatusRequest(RequestBody, frozen=True):
    """The users to look for."""

    users: Annotated[list[User], Meta(max_length=USERS_MAX)]


class StatusAnswer(Struct, frozen=True):
    """The connections of one of several users."""

    online: bool
    connections: list[UserConnection]
    last_seen: int | None


class StatusesAnswer(Struct, frozen=True):
    """The connections of users, by user."""

    users: dict[str, StatusAnswer]


class DisconnectRequest(RequestBody, frozen=True):
    """`ban_ms`: refuse the user for so long, too; 0: lift a ban; left out: leave a ban as it is."""

    ban_ms: BanMs | UnsetType = UNSET


class BansQuery(RequestBody, frozen=True):
    """The bans to list."""

    cursor: BansCursor | UnsetType = UNSET
    limit: Limit = 100


class LiftQuery(RequestBody, frozen=True):
    """`room`: the ban from that room; left out: the one from everything."""

    room: Room | UnsetType = UNSET


class BanAnswer(Struct, frozen=True):
    """A user that may not come in, to `room` or (null) at all, until `until`."""

    user: str
    room: str | None
    until: int


class BansAnswer(Struct, frozen=True):
    """A page of the bans in force, the one that ends next first; `cursor` null: the last."""

    bans: list[BanAnswer]
    cursor: str | None


class DisconnectAnswer(Struct, frozen=True):
    """The number of connections that were told to end."""

    disconnected: int


# --- sessions ---


class SessionRequest(RequestBody, frozen=True):
    """A session to create; it ends `ttl_ms` after its last use. `rooms` null: what the rooms' rules allow."""

    user: User
    info: dict[str, Any] = {}
    rooms: GrantList | None = None
    ttl_ms: Annotated[int, Meta(ge=1_000, le=YEAR_MS)] = 86_400_000


class SessionCreated(Struct, frozen=True):
    """The token, which is not kept and cannot be asked for again, and the session's version."""

    token: str
    version: int


class SessionAnswer(Struct, frozen=True):
    """A session as it is stored."""

    user: str
    info: dict[str, Any]
    rooms: GrantList | None
    ttl_ms: int
    version: int


class VersionAnswer(Struct, frozen=True):
    """The version after a change."""

    version: int


# --- nodes ---


class NodesAnswer(Struct, frozen=True):
    """The nodes that are alive."""

    nodes: list[NodeStatus]


class Problem(Struct, frozen=True, omit_defaults=True):
    """A problem (RFC 9457). After a conflict `version` is the present one."""

    type: str
    title: str
    status: int
    detail: str
    version: int | UnsetType = UNSET
