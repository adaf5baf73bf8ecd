"""Lua scripts by name: their text from files, and their digest."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple


class Script:
    """One script: the text of `parts`, files in the folder `lua` of a package, one after the other."""

    def __init__(self, package: str, *parts: str) -> None:
        folder = resources.files(package).joinpath("lua")
        self.name = parts[-1]
        self.text = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in parts)
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
