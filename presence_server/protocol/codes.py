"""Every error code and every close code, with its meaning: the one table of each.

An error never closes a connection. A close code's range says what a client should do,
so that a client need not know the single codes (the idea is Centrifugo's).
"""

from enum import Enum, StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """Why a request was refused; the value is what the wire says."""

    BAD_MESSAGE = "bad_message"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_ROOM = "invalid_room"
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code, not a token
    NOT_JOINED = "not_joined"
    TOO_LARGE = "too_large"
    TOO_MANY_ROOMS = "too_many_rooms"
    ROOM_FULL = "room_full"
    THROTTLED = "throttled"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


ERROR_MEANINGS: dict[ErrorCode, str] = {
    ErrorCode.BAD_MESSAGE: "not a message of this protocol: malformed, a field missing or of the wrong type",
    ErrorCode.UNKNOWN_TYPE: "`t` names no message that a client may send",
    ErrorCode.INVALID_ROOM: "the room's name is empty, too long, or has a character that names may not have",
    ErrorCode.FORBIDDEN: "the room's rules or the token do not allow it",
    ErrorCode.UNAUTHORIZED: "the credentials are not valid",
    ErrorCode.TOKEN_EXPIRED: "the credentials end soon or have ended; send `auth` with fresh ones",
    ErrorCode.NOT_JOINED: "this connection is not in the room",
    ErrorCode.TOO_LARGE: "`state` is larger than `limits.state_bytes`, or `data` than `limits.message_bytes`, as JSON",
    ErrorCode.TOO_MANY_ROOMS: "this connection is in `limits.rooms` rooms already",
    ErrorCode.ROOM_FULL: "the room has `members_max` members",
    ErrorCode.THROTTLED: "too fast; try again after `retry_after_ms`",
    ErrorCode.CONFLICT: "the member is not at `if_version`; `v` is its present version",
    ErrorCode.UNAVAILABLE: "the shared store is out of reach and this cannot be served without it",
    ErrorCode.INTERNAL: "the server's fault; its log has the details",
}


class Advice(Enum):
    """The action of a client after a close code."""

    NOTHING = "the connection ended normally"
    FIX = "do not repeat what was sent"
    STOP = "do not reconnect as is: get new credentials or stop"
    BACK_OFF = "reconnect with backoff"
    RECONNECT = "reconnect at once, jittered"


class Ending(Enum):
    """The end of a connection's memberships when it closes."""

    KICKED = "gone at once, reason `kicked`"
    CLOSED = "gone at once, reason `closed`"
    CLEAN = "gone after `grace_clean_ms`, reason `closed`"
    LOST = "gone after `grace_lost_ms`, reason `timeout`"
    KEPT = "they go on: another connection has them"


class CloseCode(NamedTuple):
    """One close code: its number, its short reason on the wire, and what follows from it."""

    code: int
    reason: str
    ending: Ending
    meaning: str

    @property
    def advice(self) -> Advice:
        """The reconnect policy of a client, from the range that the code is in."""
        return advice(self.code)


NORMAL = CloseCode(1000, "normal", Ending.CLEAN, "closed by the client")
GOING_AWAY = CloseCode(1001, "going away", Ending.CLEAN, "closed by the client: the page was left")
PROTOCOL_ERROR = CloseCode(1002, "protocol error", Ending.LOST, "not RFC 6455")
UNSUPPORTED = CloseCode(
    1003, "unsupported data", Ending.LOST, "a frame type that the subprotocol does not use"
)
NO_STATUS = CloseCode(
    1005, "no status", Ending.CLEAN, "closed by the client without a code (never on the wire)"
)
ABNORMAL = CloseCode(
    1006, "connection lost", Ending.LOST, "the socket ended without a close frame (never on the wire)"
)
INVALID_DATA = CloseCode(1007, "invalid data", Ending.LOST, "a text frame that is not UTF-8")
TOO_BIG = CloseCode(1009, "message too big", Ending.LOST, "a message over `limits.message_bytes`")
MALFORMED = CloseCode(4000, "malformed", Ending.LOST, "the handshake is malformed: 400 told as a close code")
UNAUTHORIZED = CloseCode(
    4001, "unauthorized", Ending.KICKED, "the credentials are missing or not valid, or were revoked"
)
KICKED = CloseCode(4003, "kicked", Ending.KICKED, "removed by an operator or a backend")
FORBIDDEN = CloseCode(
    4004, "forbidden", Ending.KICKED, "the page's origin may not connect, or the user is banned"
)
ABUSE = CloseCode(
    4008,
    "abuse",
    Ending.KICKED,
    "kept being refused, flooded control frames or fragments, or trickled a message",
)
TOKEN_EXPIRED = CloseCode(4009, "token expired", Ending.CLOSED, "the credentials ended")
REPLACED = CloseCode(4010, "replaced", Ending.KEPT, "another connection resumed this one")
OVERLOADED = CloseCode(4100, "overloaded", Ending.LOST, "the node is full, or has too much to do")
THROTTLED = CloseCode(4101, "throttled", Ending.LOST, "too many connections from this address")
TOO_SLOW = CloseCode(
    4102, "too slow", Ending.LOST, "did not read fast enough for one of the `limits.outbox_…`"
)
DRAINING = CloseCode(4200, "draining", Ending.LOST, "the node is shutting down")
NO_PONG = CloseCode(4201, "no pong", Ending.LOST, "nothing came for `ping_timeout_ms` after a ping")

CLOSE_CODES: dict[int, CloseCode] = {
    entry.code: entry
    for entry in (
        NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NO_STATUS, ABNORMAL, INVALID_DATA, TOO_BIG,
        MALFORMED, UNAUTHORIZED, KICKED, FORBIDDEN, ABUSE, TOKEN_EXPIRED, REPLACED,
        OVERLOADED, THROTTLED, TOO_SLOW, DRAINING, NO_PONG,
    )
}  # fmt: skip


def advice(code: int) -> Advice:
    """Say what a client should do after `code`; unknown codes follow their range."""
    if code in {1000, 1001, 1005}:
        return Advice.NOTHING
    if code in {1002, 1003, 1007, 1009}:
        return Advice.FIX
    if 4000 <= code < 4100:
        return Advice.STOP
    if 4200 <= code < 4300:
        return Advice.RECONNECT
    return Advice.BACK_OFF


def label(code: int) -> str:
    """Return a close code as a metric's label; those that clients make up are one."""
    return str(code) if code in CLOSE_CODES else "other"


def ending(code: int) -> Ending:
    """Say what becomes of the memberships of a connection that this server ended with `code`."""
    entry = CLOSE_CODES.get(code)
    return Ending.LOST if entry is None else entry.ending


def ending_by_client(code: int) -> Ending:
    """Say what becomes of them where the client chose the code: it may say that it left, no more."""
    return Ending.CLEAN if code in {1000, 1001, 1005} else Ending.LOST
