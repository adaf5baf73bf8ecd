"""Resume tokens: signed proof that a connection was here, and who it was.

A token is a JWT (RFC 7519, signed as RFC 7515 says) with one algorithm, one header and one key for one purpose. It is
made and read here without a library: every connection is given one, and PyJWT takes ten times as long.
"""

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from hmac import compare_digest
from typing import Final

import msgspec

HEADER: Final = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."
"""The beginning of every token. One that begins otherwise is not of this server: no token chooses how it is checked."""
SECRETS_MAX: Final = 3
"""Secrets whose tokens are accepted."""
BLOCK_BYTES: Final = 64
"""The block of SHA-256; no key is longer."""
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


class SigningKey:
    """HMAC-SHA-256 (RFC 2104) with one key, of which the hashing is done once: `hmac.digest` takes twice as long."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def sign(self, signed: bytes) -> bytes:
        """Return the signature, as a token has it."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(signed)
        outer.update(inner.digest())
        return urlsafe_b64encode(outer.digest()).rstrip(b"=")


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ResumeClaim)


class ResumeTokens:
    """Issues and reads resume tokens, each good for `valid_ms`."""

    def __init__(self, secret: str, valid_ms: int) -> None:
        self._valid_ms = valid_ms
        self._keys: deque[SigningKey] = deque(maxlen=SECRETS_MAX)
        self.secret = ""
        self.sign_with(secret)

    def sign_with(self, secret: str) -> None:
        """Sign with another secret from now on; what the last few have signed is still good."""
        if secret != self.secret:
            self.secret = secret
            self._keys.appendleft(SigningKey(hashlib.sha256(PURPOSE + secret.encode()).digest()))

    def issue(self, claim: ResumeClaim) -> str:
        """Sign a token."""
        signed = HEADER + urlsafe_b64encode(_encoder.encode(claim)).rstrip(b"=")
        return (signed + b"." + self._keys[0].sign(signed)).decode()

    def read(self, token: str, now_ms: int) -> ResumeClaim | None:
        """Return what a token says, or None where it is bad, expired or signed by somebody else."""
        if not token.isascii():
            return None
        signed, _, signature = token.encode().rpartition(b".")
        if not signed.startswith(HEADER) or not any(
            compare_digest(signature, key.sign(signed)) for key in self._keys
        ):
            return None
        try:
            # RFC 7515, 2: without padding; what is too much of it is ignored.
            claim = _decoder.decode(urlsafe_b64decode(signed[len(HEADER) :] + b"=="))
        except (binascii.Error, ValueError, RecursionError):
            return None
        return claim if now_ms < claim.iat + self._valid_ms else None
