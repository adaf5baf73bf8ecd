"""May it: who a client is, by the credentials that its handshake brought."""

import unicodedata
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from presence_server.errors import PresenceError
from presence_server.ids import guest_name
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Document

USER_CHARS_MAX: Final = 128
NO_INFO: Final = msgspec.Raw(b"{}")
UNUSABLE: Final = frozenset(("Cc", "Cs"))
"""Unicode categories that a name has none of: control characters and surrogates."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a handshake says of its client: a token, or the name and info that it gives itself."""

    token: str | None = None
    user: str | None = None
    info: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is. `info` is a map that everybody in its rooms sees."""

    user: str
    info: Document


class IdentityError(PresenceError):
    """The handshake is refused with HTTP `status`: 400 malformed, 401 missing or invalid."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Authenticator(Protocol):
    """Says who a client is, or raises `IdentityError`."""

    def identify(self, credentials: Credentials) -> Identity:
        """Return the identity that the credentials prove."""

    def renew(self, user: str, token: str) -> Identity | None:
        """Return the identity that a fresh token proves, or None where it does not prove `user`."""


class Anonymous:
    """`auth.mode = "none"`: clients name themselves."""

    def __init__(self, info_bytes_max: int) -> None:
        self._info_bytes_max = info_bytes_max

    def identify(self, credentials: Credentials) -> Identity:
        """Believe the client; without a name it is a guest."""
        user = guest_name() if credentials.user is None else checked_user(credentials.user)
        return Identity(user, self._info(credentials.info))

    def renew(self, user: str, token: str) -> Identity | None:
        """No token proves anything."""
        del user, token
        return None

    def _info(self, text: str | None) -> Document:
        if text is None:
            return NO_INFO
        try:
            info = msgspec.json.decode(text, type=dict)
            raw = document(info)
        except (ValueError, RecursionError) as exc:
            raise IdentityError(400, f"info is not a JSON map: {exc}") from None
        if len(raw) > self._info_bytes_max:
            raise IdentityError(400, f"info is {len(raw)} bytes, more than {self._info_bytes_max}")
        return raw


class Nobody:
    """A mode whose credentials this version cannot check: nobody is let in."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def identify(self, credentials: Credentials) -> Identity:
        """Refuse everybody."""
        del credentials
        raise IdentityError(401, f"no credentials can be checked for auth.mode {self._mode!r}")

    def renew(self, user: str, token: str) -> Identity | None:
        """No token can be checked."""
        del user, token
        return None


def checked_user(user: str) -> str:
    """Return `user` if it can be a name: 1 to 128 characters, none of them control characters."""
    if not 1 <= len(user) <= USER_CHARS_MAX:
        raise IdentityError(400, f"user has 1 to {USER_CHARS_MAX} characters")
    if not user.isprintable() and any(unicodedata.category(char) in UNUSABLE for char in user):
        raise IdentityError(400, "user has control characters")
    return user
