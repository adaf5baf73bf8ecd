"""Public keys that tokens are checked with: which kinds there are, and how one is read."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
RSA_BITS_MIN: Final = 2_048


def read_public_key(source: str) -> PublicKey:
    """Return a public key from PEM text, or from the file of that name.

    Raises `ValueError` for what is no public key or too weak a one, `OSError` for a file that cannot be read.
    """
    text = source.encode() if source.lstrip().startswith("-----BEGIN") else Path(source).read_bytes()
    try:
        key = load_pem_public_key(text.strip() + b"\n")
    except ValueError:
        raise ValueError("this is no PEM public key (-----BEGIN PUBLIC KEY-----)") from None
    return usable(key)


def usable(key: object) -> PublicKey:
    """Return a key that can check tokens; raise `ValueError` for one that cannot, or only badly."""
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise ValueError(f"an RSA key of {key.key_size} bits, fewer than {RSA_BITS_MIN}")
    if isinstance(key, PublicKey):
        return key
    raise ValueError(f"a key of the kind {type(key).__name__} signs no tokens")
