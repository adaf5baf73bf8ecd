"""Grants: the actions that a token allows its bearer, in the rooms that its globs match."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from presence_server.config.globs import compile_glob
from presence_server.config.settings import Action

if TYPE_CHECKING:
    import re

GRANTS_MAX: Final = 100
REMEMBERED_GLOBS: Final = 4_096


class Grant(msgspec.Struct, frozen=True):
    """Actions in the rooms that `pattern` matches: `*` is any text, `?` any one character."""

    pattern: Annotated[
        str, msgspec.Meta(min_length=1, max_length=164, pattern=r"^[A-Za-z0-9_\-=@,.;:/+*?]+(?!\n)$")
    ]
    allow: Annotated[list[Action], msgspec.Meta(max_length=5)]


GrantList = Annotated[list[Grant], msgspec.Meta(max_length=GRANTS_MAX)]
_compiled = lru_cache(REMEMBERED_GLOBS)(compile_glob)


class Grants:
    """Several grants, which add up. Raises `ValueError` for a pattern that is no glob of room names."""

    __slots__ = ("_grants",)

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants: list[tuple[re.Pattern[str], frozenset[Action]]] = [
            (_compiled(grant.pattern), frozenset(grant.allow)) for grant in grants
        ]

    def allow(self, action: Action, room: str) -> bool:
        """Tell whether any of them allows `action` in `room`."""
        return any(action in allowed and pattern.match(room) for pattern, allowed in self._grants)
