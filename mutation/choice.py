"""Which tests a module has, and which of its mutants are no mutants: `tests.toml` and `equivalent.toml`."""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True)
class Equivalent:
    """A change of one line that changes nothing which can be observed, and why."""

    was: str
    becomes: str
    why: str


def tests_of(module: str, root: Path) -> list[str]:
    """Return the tests of a module: what `tests.toml` names, or else the file or the folder that mirrors it.

    Raises `LookupError` where there is none.
    """
    listed = tomllib.loads((FOLDER / "tests.toml").read_text())
    for pattern, tests in listed.items():
        if any(fnmatch(module, each) for each in pattern.split()):
            return list(tests)
    path = Path("tests", *Path(module).parts[1:])
    mirror = path.with_name(f"test_{path.stem}.py")
    for place in (mirror, path.parent):
        if (root / place).exists():
            return [str(place)]
    raise LookupError(f"{module}: no tests; name some in mutation/tests.toml")


def equivalents_of(module: str) -> list[Equivalent]:
    """Return the changes of a module that are not counted."""
    listed = tomllib.loads((FOLDER / "equivalent.toml").read_text())
    return [Equivalent(**entry) for entry in listed.get(module, ())]
