"""Keys and tokens as issuers make them."""

import base64
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET: Final = "a secret of sixty-four bytes, so that it is long enough for HS512"
FAR_S: Final = 4_000_000_000
"""A time that does not come while tests run, s."""
CURVES: Final[dict[str, Any]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@lru_cache
def private_key(algorithm: str) -> Any:
    """Return a key to sign with: of HS… the secret; the same one each time."""
    if algorithm.startswith("HS"):
        return SECRET
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65_537, 2_048)


def public_pem(algorithm: str) -> str:
    """Return the public half as PEM text."""
    key = private_key(algorithm).public_key()
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def public_jwk(algorithm: str, **fields: Any) -> dict[str, Any]:
    """Return the public half as a JWK."""
    name = "EdDSA" if algorithm == "EdDSA" else algorithm
    key: dict[str, Any] = json.loads(
        jwt.get_algorithm_by_name(name).to_jwk(private_key(algorithm).public_key())
    )
    return {name: value for name, value in key.items() if name != "key_ops"} | fields


def token(
    algorithm: str = "HS256",
    *,
    key: str | None = None,
    headers: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Return a token, signed with `key` or the algorithm's own; a claim of None is left out."""
    fields = {"sub": "alice", "exp": FAR_S} | claims
    fields = {name: value for name, value in fields.items() if value is not None}
    return jwt.encode(fields, key or private_key(algorithm), algorithm, dict(headers or {}))


def part(**fields: Any) -> str:
    """Return one part of a token, as it is written."""
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()
