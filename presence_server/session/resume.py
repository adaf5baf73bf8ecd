"""Resume tokens: signed proof that a connection was here, and who it was.

A token is a JWT (RFC 7519, signed as RFC 7515 says) with one algorithm, one header and one key for one purpose. It is
made and read here without a library: every connection is given one, and PyJWT takes ten times as long.
"""

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from typing import Final

import msgspec

HEADER: Final = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."
"""The beginning of every token. One that begins otherwise is not of this server: no token chooses how it is checked."""
SECRETS_MAX: Final = 3
"""Secrets whose tokens are accepted."""
PURPOSE: Final = b"presence-server resume token "
"""Makes the key one for resume tokens alone, whatever else its secret signs."""


class ResumeClaim(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims of a resume token. `iat` is when it was issued, in ms since 1970.

    A token of this server has none of the claims that are None here, which would limit where or when it is good: one
    that has is not read.
    """

    cid: str
    user: str
    epoch: int
    node: str
    iat: int
    exp: None = None
    nbf: None = None
    aud: None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ResumeClaim)


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
        signed = HEADER + urlsafe_b64encode(_encoder.encode(claim)).rstrip(b"=")
        return f"{signed.decode()}.{_signature(signed, self._keys[0]).decode()}"

    def read(self, token: str, now_ms: int) -> ResumeClaim | None:
        """Return what a token says, or None where it is bad, expired or signed by somebody else."""
        if not token.isascii():
            return None
        signed, _, signature = token.encode().rpartition(b".")
        if not signed.startswith(HEADER) or not any(
            hmac.compare_digest(signature, _signature(signed, key)) for key in self._keys
        ):
            return None
        try:
            # RFC 7515, 2: without padding; what is too much of it is ignored.
            claim = _decoder.decode(urlsafe_b64decode(signed[len(HEADER) :] + b"=="))
        except (binascii.Error, ValueError, RecursionError):
            return None
        return claim if now_ms < claim.iat + self._valid_ms else None


def _signature(signed: bytes, key: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(key, signed, "sha256")).rstrip(b"=")
