"""Names: those that nobody can guess, and how those of users are compared."""

import base64
import random
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final


class RandomBits:
    """Random bits from the operating system; in a simulation, from its seed."""

    def __init__(self) -> None:
        self.draw: Callable[[int], int] = secrets.randbits


SOURCE: Final = RandomBits()


class SourcedRandom(random.Random):
    """Draws numbers and pauses from where ids come from."""

    def random(self) -> float:
        """Return a number from 0 to below 1."""
        return SOURCE.draw(53) * 2**-53

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        return SOURCE.draw(k)


@contextmanager
def drawn_from(draw: Callable[[int], int]) -> Iterator[None]:
    """Make ids of what `draw(bits)` returns, so that a simulation repeats. They can be guessed then."""
    before, SOURCE.draw = SOURCE.draw, draw
    try:
        yield
    finally:
        SOURCE.draw = before


def new_cid() -> str:
    """Make a connection id: 96 random bits, not a secret but not to be guessed either."""
    return base64.urlsafe_b64encode(SOURCE.draw(96).to_bytes(12, "big")).decode()


def new_node_id() -> str:
    """Make the name of a node, new at every start."""
    return f"{SOURCE.draw(32):08x}"


def new_secret() -> str:
    """Make a key that signs: 256 random bits, in hexadecimal."""
    return f"{SOURCE.draw(256):064x}"


def guest_name() -> str:
    """Make a name for a client that gave none."""
    return f"guest-{SOURCE.draw(32):08x}"


def new_generation() -> int:
    """Make a room's generation: 63 random bits, so that a room made anew is not taken for the old one."""
    return SOURCE.draw(63)


def normal_user(user: str) -> str:
    """Return a user's name as it is compared: in NFC, without blanks around it."""
    return user.strip() if user.isascii() else unicodedata.normalize("NFC", user).strip()
