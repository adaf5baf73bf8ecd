"""Resume tokens: signed proof that a connection was here, and who it was."""

import hashlib
from collections import deque
from typing import Final

import jwt
import msgspec

ALGORITHM: Final = "HS256"
SECRETS_MAX: Final = 3
"""Secrets whose tokens are accepted."""
PURPOSE: Final = b"presence-server resume token "
"""Makes the key one for resume tokens alone, whatever else its secret signs."""


class ResumeClaim(msgspec.Struct, frozen=True):
    """The claims of a resume token. `iat` is when it was issued, in ms since 1970."""

    cid: str
    user: str
    epoch: int
    node: str
    iat: int


class ResumeTokens:
    """Issues and reads resume tokens, each good for `valid_ms`."""

    def __init__(self, secret: str, valid_ms: int) -> None:
        self._valid_ms = valid_ms
        self._keys: deque[bytes] = deque(maxlen=SECRETS_MAX)
        self.secret = ""
        self.sign_with(secret)

    def sign_with(self, secret: str) -> None:
        """Sign with another secret from now on; what the last few have signed is still good."""
        if secret != self.secret:
            self.secret = secret
            self._keys.appendleft(hashlib.sha256(PURPOSE + secret.encode()).digest())

    def issue(self, claim: ResumeClaim) -> str:
        """Sign a token."""
        return jwt.encode(msgspec.to_builtins(claim), self._keys[0], ALGORITHM)

    def read(self, token: str, now_ms: int) -> ResumeClaim | None:
        """Return what a token says, or None where it is bad, expired or signed by somebody else."""
        for key in self._keys:
            try:
                fields = jwt.decode(token, key, [ALGORITHM], options={"verify_iat": False})
                claim = msgspec.convert(fields, ResumeClaim)
            except (jwt.InvalidTokenError, ValueError):
                continue
            return claim if now_ms < claim.iat + self._valid_ms else None
        return None
