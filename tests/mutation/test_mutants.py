"""What is changed in a module, and what is left alone."""

from pathlib import Path, PurePath

import pytest

from mutation import choice, lua
from mutation.mutant import Mutant

ROOT = Path(__file__).parent.parent.parent
PYTHON = '''"""About it."""
import struct

LIMIT = 3


class Room:
    """A room."""

    def add(self, cid: str | None, log: object = None) -> int:
        """Add one."""
        log.info("added", cid=cid)
        if self.full:
            raise ValueError("the room has no place left")
        self.count += 1
        self.tell(
            cid,
            after=LIMIT,
        )
        return self.count
'''
LUA = """-- Count to 9 and no further.
local seen = tonumber(ARGV[1] or 0)
if seen > 3 and not full then
  redis.call('ZADD', KEYS[1],
    seen, 'a + b')
end
counts[seen] = true
return seen
"""


def of_python(source: str) -> list[Mutant]:
    """Return the mutants of a text in Python."""
    from mutation import python  # noqa: PLC0415 - libcst takes 0.5 s, in each process that only looks for tests

    return list(python.mutants_of(source))


def becomes(mutants: list[Mutant], source: str) -> set[str]:
    return {mutant.changed_lines(source)[2] for mutant in mutants}


def test_python_is_changed_where_it_does_something() -> None:
    found = becomes(of_python(PYTHON), PYTHON)
    assert {
        "LIMIT = 4",
        "if not (self.full):",
        "self.count -= 1",
        "self.count = 1",
        "pass",
        "return None",
        "None,",
        "after=None,",
    } <= found
    assert not any(
        text in " ".join(found) for text in ("About", "log", "added", "place", "struct", "str |", "XX")
    )


def test_every_mutant_of_python_compiles() -> None:
    source = (ROOT / "presence_server/session/directory.py").read_text()
    for mutant in of_python(source):
        compile(mutant.applied_to(source), "directory.py", "exec")


def test_a_statement_left_out_is_left_out_with_all_of_its_lines() -> None:
    (without,) = (
        mutant.applied_to(PYTHON)
        for mutant in of_python(PYTHON)
        if mutant.text == "pass" and "tell" not in mutant.applied_to(PYTHON)
    )
    assert without.splitlines()[-2:] == ["        pass", "        return self.count"]
    (without,) = (
        mutant.applied_to(LUA)
        for mutant in lua.mutants_of(LUA)
        if mutant.text == "" and "ZADD" not in mutant.applied_to(LUA)
    )
    assert "'a + b'" not in without


def test_lua_is_changed_but_for_its_comments_and_strings() -> None:
    found = becomes(lua.mutants_of(LUA), LUA)
    assert {
        "local seen = tonumber(ARGV[2] or 0)",
        "local seen = tonumber(ARGV[1] and 0)",
        "if seen >= 3 and not full then",
        "if seen > 3 and full then",
        "counts[seen] = false",
        "return nil",
        "",
    } <= found
    assert not any("10" in text or "a - b" in text for text in found)


def test_a_mutant_says_where_it_is_and_what_it_changes() -> None:
    source = "a = 1\nb = 2\n"
    mutant = Mutant(source.index("2"), len(source) - 1, "3")
    assert mutant.changed_lines(source) == (2, "b = 2", "b = 3")
    assert mutant.diff(PurePath("m.py"), source) == "-b = 2\n+b = 3"


@pytest.mark.parametrize("module", ["presence_server/hub/channel.py", "presence_server/presence/state.py"])
def test_the_tests_of_a_module_are_there(module: str) -> None:
    assert all((ROOT / tests).exists() for tests in choice.tests_of(module, ROOT))


def test_a_module_without_tests_is_named() -> None:
    with pytest.raises(LookupError, match=r"presence_server/nowhere/nothing\.py: no tests"):
        choice.tests_of("presence_server/nowhere/nothing.py", ROOT)
