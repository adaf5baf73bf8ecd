"""The rules of each room: the first `[[rooms]]` whose glob matches decides."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from presence_server.config.globs import compile_glob
from presence_server.config.settings import Action, RoomSettings
from presence_server.errors import RequestError
from presence_server.protocol.codes import ErrorCode

ROOM_NAME: Final = re.compile(r"[A-Za-z0-9_\-=@,.;:/+]{1,164}")
REMEMBERED_ROOMS: Final = 10_000


class Rules:
    """The configured rules, looked up by room."""

    def __init__(self, rooms: Sequence[RoomSettings]) -> None:
        self._patterns = [(compile_glob(rules.pattern), rules) for rules in rooms]
        self._default = RoomSettings()
        self.of = lru_cache(REMEMBERED_ROOMS)(self._find)

    def _find(self, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `invalid_room` where nothing can be called that."""
        if ROOM_NAME.fullmatch(room) is None:
            raise RequestError(
                ErrorCode.INVALID_ROOM, "a room is 1 to 164 characters of A-Z a-z 0-9 _ - = @ , . ; : / +"
            )
        for pattern, rules in self._patterns:
            if pattern.match(room):
                return rules
        return self._default

    def allowing(self, action: Action, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `forbidden` where they do not allow `action`."""
        rules = self.of(room)
        if action not in rules.allow:
            raise RequestError(
                ErrorCode.FORBIDDEN, f"the rooms {rules.pattern!r} do not allow {action!r}", room=room
            )
        return rules
