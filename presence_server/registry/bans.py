"""Bans: users that may not connect, or not enter one room."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from presence_server.registry.commands import Ban, Command, Disconnect, Remove

BANS_MAX: Final = 100_000
"""Bans that may hold at the same time: each node keeps all of them."""
CURSOR_PATTERN: Final = r"([0-9]{1,16}):((?:[0-9a-f]{2}){0,800})"
_BETWEEN: Final = "\n"
"""The separator of a user and a room: neither can contain it."""


class BanEntry(NamedTuple):
    """A ban in force: `room` "" is everything; `until` in ms since 1970."""

    user: str
    room: str
    until: int


class Bans:
    """The bans that this process knows."""

    def __init__(self) -> None:
        self._until_ms: dict[str, int] = {}
        self._clear_at = 1_000

    def __len__(self) -> int:
        return len(self._until_ms)

    def note_command(self, command: Command, wall_ms: int) -> None:
        """Set or lift the ban that a command is about, if any; `wall_ms` is the present time."""
        ban = ban_of(command)
        if ban is not None:
            # The `at` of a removal is when the member joined, maybe by a clock that was put back since: it is not now.
            is_over = not isinstance(command, Remove) and ban.until <= command.at
            self.set(ban_name(ban.user, ban.room), 0 if is_over else ban.until)
            if len(self._until_ms) > self._clear_at:
                self.clear(wall_ms)

    def set(self, name: str, until_ms: int) -> None:
        """Let the ban of that name hold until then; 0: not at all."""
        self._until_ms.pop(name, None)
        if until_ms:
            self._until_ms[name] = until_ms

    def clear(self, wall_ms: int) -> None:
        """Forget the bans that are over."""
        self._until_ms = {name: until_ms for name, until_ms in self._until_ms.items() if until_ms > wall_ms}
        self._clear_at = max(1_000, 2 * len(self._until_ms))

    def until(self, user: str, room: str, wall_ms: int) -> int:
        """Return when a user may come back, to a room or ("") at all; 0: now."""
        if not self._until_ms:
            return 0
        name = ban_name(user, room)
        until_ms = self._until_ms.get(name, 0)
        if 0 < until_ms <= wall_ms:
            del self._until_ms[name]
            return 0
        return until_ms

    def entries(self, wall_ms: int) -> list[BanEntry]:
        """Return the bans in force, the one that ends next first."""
        alive = [(until_ms, name) for name, until_ms in self._until_ms.items() if until_ms > wall_ms]
        return [ban_entry(name, until_ms) for until_ms, name in sorted(alive)]


def ban_of(command: Command) -> BanEntry | None:
    """Return the ban that a command sets or, with an end that has passed, lifts."""
    match command:
        case Disconnect(user=user, banned_until=int(until)):
            return BanEntry(user, "", until)
        case Remove(user=user, room=room, banned_until=int(until)) if user:
            return BanEntry(user, room, until)
        case Ban(user=user, room=room, until=until):
            return BanEntry(user, room, until)
        case _:
            return None


def ban_name(user: str, room: str) -> str:
    """Return the name that a ban is kept under."""
    return f"{user}{_BETWEEN}{room}" if room else user


def ban_entry(name: str, until_ms: int) -> BanEntry:
    """Return the ban of a name."""
    user, _, room = name.partition(_BETWEEN)
    return BanEntry(user, room, until_ms)


def page_of(entries: Sequence[BanEntry], limit: int) -> tuple[list[BanEntry], str | None]:
    """Return the first of some bans, and the cursor after them where there are more."""
    page = list(entries[:limit])
    if len(entries) <= limit:
        return page, None
    last = page[-1]
    return page, f"{last.until}:{ban_name(last.user, last.room).encode().hex()}"


def read_cursor(cursor: str | None) -> tuple[int, str]:
    """Return the end and the name of a page's last ban. Raises `ValueError` for what is no cursor."""
    if cursor is None:
        return 0, ""
    found = re.fullmatch(CURSOR_PATTERN, cursor)
    if found is None:
        raise ValueError("no page of bans gave this cursor")
    return int(found[1]), bytes.fromhex(found[2]).decode(errors="replace")
