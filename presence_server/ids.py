"""Names: those that nobody can guess, and how those of users are compared."""

import secrets
import unicodedata


def new_cid() -> str:
    """Make a connection id: 96 random bits, not a secret but not to be guessed either."""
    return secrets.token_urlsafe(12)


def new_node_id() -> str:
    """Make the name of a node, new at every start."""
    return secrets.token_hex(4)


def guest_name() -> str:
    """Make a name for a client that gave none."""
    return f"guest-{secrets.token_hex(4)}"


def new_generation() -> int:
    """Make a room's generation: 63 random bits, so that a room made anew is not taken for the old one."""
    return secrets.randbits(63)


def normal_user(user: str) -> str:
    """Return a user's name as it is compared: in NFC, without blanks around it."""
    return user.strip() if user.isascii() else unicodedata.normalize("NFC", user).strip()
