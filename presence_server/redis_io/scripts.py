"""Lua scripts by name: their text from files, and their digest."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple

PRELUDE: Final = "room"


class Script:
    """One script: its own text, after the prelude of every room's scripts where it is one."""

    def __init__(self, name: str, *, of_room: bool = True) -> None:
        folder = resources.files("presence_server.presence").joinpath("lua")
        names = (PRELUDE, name) if of_room else (name,)
        parts = [folder.joinpath(f"{part}.lua").read_text() for part in names]
        self.name = name
        self.text = "\n".join(parts)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Call(NamedTuple):
    """A command for the pipeline; for a script also its text, for a server that has never seen it."""

    command: tuple[str | bytes | int, ...]
    script: Script | None = None

    def by_text(self) -> tuple[str | bytes | int, ...]:
        """Return the command with the script's text instead of its digest."""
        if self.script is None:
            return self.command
        return ("EVAL", self.script.text, *self.command[2:])


def script_call(script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Call:
    """Make a call of a script by its digest."""
    return Call(("EVALSHA", script.digest, len(keys), *keys, *arguments), script)
