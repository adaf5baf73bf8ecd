"""The identity of a client, and the port that every mode of authentication fulfils."""

import unicodedata
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from presence_server.errors import PresenceError
from presence_server.grants import Grants
from presence_server.ids import normal_user
from presence_server.protocol.codec import document
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Document

USER_CHARS_MAX: Final = 128
NO_INFO: Final = msgspec.Raw(b"{}")
UNUSABLE: Final = frozenset(("Cc", "Cs"))
"""Unicode categories that a name has none of: control characters and surrogates."""


class Credentials(NamedTuple):
    """The credentials in a handshake: a token, or the name and info that a client gives itself.

    `repeated` says that it brought more than one token in one place, so that it is not clear which is meant.
    """

    token: str | None = None
    user: str | None = None
    info: str | None = None
    repeated: bool = False


class Identity(NamedTuple):
    """The identity of a client, and what its credentials let it do.

    `info` is a map that everybody in its rooms sees. `grants` None: what the rooms' own rules allow.
    `expires_ms` is when the credentials end, in ms since 1970; None: they do not, or somebody else sees to it.
    `session` names the opaque session that the token belongs to, which ends `session_ttl_ms` after its last use;
    "": none.
    """

    user: str
    info: Document
    grants: Grants | None = None
    expires_ms: int | None = None
    session: str = ""
    session_ttl_ms: int = 0


class IdentityError(PresenceError):
    """The handshake is refused with HTTP `status`.

    400 malformed, 401 missing or invalid, 503 cannot be checked now. `code` is what a connected client is
    told that sent such credentials with `auth`. `detail` holds nothing of a token.
    """

    def __init__(self, status: int, detail: str, code: ErrorCode = ErrorCode.UNAUTHORIZED) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code


Identified = Callable[[Identity | IdentityError], None]


class Authenticator(Protocol):
    """Says who a client is."""

    def identify(self, credentials: Credentials, done: Identified) -> None:
        """Call `done` once, at once or later on the loop, with what the credentials prove or with why not."""

    def hold(self, session: str, ttl_ms: int) -> None:
        """Keep an opaque session in use, which ends `ttl_ms` after its last use: a connection of it is here."""

    def let_go(self, session: str) -> None:
        """Let an opaque session end in its time: its last connection here has."""


def checked_user(user: str, status: int = 400) -> str:
    """Return `user` as it is compared, if it can be a name: 1 to 128 characters, none of them control characters."""
    if not user.isprintable() and any(unicodedata.category(char) in UNUSABLE for char in user):
        raise IdentityError(status, "user has control characters")
    user = normal_user(user)
    if not 1 <= len(user) <= USER_CHARS_MAX:
        raise IdentityError(status, f"user must have 1 to {USER_CHARS_MAX} characters")
    return user


def checked_info(info: object, bytes_max: int, status: int = 400) -> Document:
    """Return `info` as JSON text, if it is what JSON can say and no longer than `bytes_max`."""
    try:
        raw = document(info)
    except (ValueError, RecursionError) as exc:
        raise IdentityError(status, f"info is not a JSON map: {exc}") from None
    if len(raw) > bytes_max:
        raise IdentityError(status, f"info is {len(raw)} bytes, more than {bytes_max}")
    return raw
