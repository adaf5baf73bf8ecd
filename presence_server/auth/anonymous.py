"""`auth.mode = "none"`: clients name themselves."""

import msgspec

from presence_server.auth.identity import (
    NO_INFO,
    Credentials,
    Identified,
    Identity,
    IdentityError,
    checked_info,
    checked_user,
)
from presence_server.ids import guest_name
from presence_server.protocol.messages import Document


class Anonymous:
    """Believes every client; without a name it is a guest."""

    def __init__(self, info_bytes_max: int) -> None:
        self._info_bytes_max = info_bytes_max

    def identify(self, credentials: Credentials, done: Identified) -> None:
        """Answer at once."""
        try:
            answer: Identity | IdentityError = self.identify_unverified(credentials)
        except IdentityError as exc:
            answer = exc
        done(answer)

    def hold(self, session: str, ttl_ms: int) -> None:
        """Do nothing: no client has an opaque session."""

    def let_go(self, session: str) -> None:
        """Do nothing: no client has an opaque session."""

    def identify_unverified(self, credentials: Credentials) -> Identity:
        """Return who the client says it is. Raises `IdentityError`."""
        user = guest_name() if credentials.user is None else checked_user(credentials.user)
        return Identity(user, self._info(credentials.info))

    def _info(self, text: str | None) -> Document:
        if text is None:
            return NO_INFO
        try:
            info = msgspec.json.decode(text, type=dict)
        except (ValueError, RecursionError) as exc:
            raise IdentityError(400, f"info is not a JSON map: {exc}") from None
        return checked_info(info, self._info_bytes_max)
