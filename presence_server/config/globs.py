"""Globs of room names: `*` is any text, also none, `?` any one character; the rest is itself."""

import fnmatch
import re
from typing import Final

PATTERN_LENGTH_MAX: Final = 164
_PATTERN = re.compile(r"[A-Za-z0-9_\-=@,.;:/+*?]+")


def valid_glob(pattern: str) -> bool:
    """Whether `pattern` can match a room: the characters of room names, `*` and `?`, 1 to 164 of them."""
    return len(pattern) <= PATTERN_LENGTH_MAX and _PATTERN.fullmatch(pattern) is not None


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Compile a valid glob; use the result's `match`.

    `fnmatch` writes a star as an atomic group, so many stars cost no backtracking. Its `[…]` cannot
    occur: a room's name has no brackets. Raises `ValueError` for a pattern that is not valid.
    """
    if not valid_glob(pattern):
        raise ValueError(f"not a glob of room names: {pattern!r}")
    return re.compile(fnmatch.translate(pattern))
