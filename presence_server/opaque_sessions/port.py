"""The port: what a session store does, and what a session is."""

import hashlib
import secrets
from typing import Any, Final, Protocol

import msgspec

from presence_server.grants import GrantList

TOKEN_CHARS_MAX: Final = 512


class SessionData(msgspec.Struct, frozen=True):
    """The identity that a session gives its bearer, and for how long after its last use it is valid.

    `rooms` None: what the rooms' own rules allow.
    """

    user: str
    ttl_ms: int
    info: dict[str, Any] = {}
    rooms: GrantList | None = None


class StoredSession(msgspec.Struct, frozen=True):
    """A session, and its version: 1 at first, one more with each change."""

    data: SessionData
    version: int


class VersionConflict(msgspec.Struct, frozen=True):
    """The session is at another version than was expected; nothing was changed."""

    version: int


class SessionStore(Protocol):
    """Holds sessions by a hash of their token: who reads the store cannot act as anybody.

    A session ends `ttl_ms` after its last use: each of `create`, `read`, `change` and `touch` is one.
    `session_id` gives the id that a token's session has. Every call may raise `StoreAwayError`.
    """

    async def create(self, session_id: str, data: SessionData) -> None:
        """Begin a session, at version 1."""

    async def read(self, session_id: str) -> StoredSession | None:
        """Return a session; None where there is none (any more)."""

    async def change(self, session_id: str, version: int, data: SessionData) -> int | VersionConflict | None:
        """Replace what a session says if it is at `version`, as one step; return its new version."""

    async def revoke(self, session_id: str) -> bool:
        """End a session; tell whether there was one."""

    async def touch(self, session_ids: list[str]) -> list[bool]:
        """Use several sessions; tell of each whether it is there."""


def new_token() -> str:
    """Make a token: 256 random bits."""
    return secrets.token_urlsafe(32)


def session_id(token: str) -> str:
    """Return the id under which a token's session is kept. No salt: the token is random itself."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
