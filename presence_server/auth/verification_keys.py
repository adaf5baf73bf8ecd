"""Keys that tokens are signed with, and which of them may check which algorithm.

A token names its own algorithm, so a key must never be used for one that it was not made for: a public key, which
everybody may know, is no secret to sign with (RFC 8725, 2.1 and 3.1).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from presence_server.config.public_key import PublicKey, usable

CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class PublishedKey(NamedTuple):
    """A key of a JWK Set, with its `kid` and its `alg` where it has them."""

    kid: str | None
    algorithm: str | None
    key: PublicKey


def is_symmetric(algorithm: str) -> bool:
    """Tell whether who checks a token could also make it."""
    return algorithm.startswith("HS")


def fits(key: PublicKey, algorithm: str) -> bool:
    """Tell whether a public key is of the kind that an algorithm uses."""
    if isinstance(key, RSAPublicKey):
        return algorithm.startswith(("RS", "PS"))
    if isinstance(key, EllipticCurvePublicKey):
        return CURVES.get(algorithm) == key.curve.name
    return algorithm == "EdDSA"


def read_jwks(document: object) -> list[PublishedKey]:
    """Return the usable keys of a JWK Set (RFC 7517).

    What is for encryption, symmetric, of an unknown kind or broken is left out, as the RFC asks (5).
    Raises `TypeError` where the document is no JWK Set.
    """
    keys = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(keys, list):
        raise TypeError('no JWK Set: it has no list "keys"')
    found = []
    for entry in keys:
        if not isinstance(entry, Mapping) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            found.append(PublishedKey(entry.get("kid"), entry.get("alg"), usable(jwt.PyJWK(dict(entry)).key)))
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
    return found
