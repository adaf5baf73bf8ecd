"""The output of commands: text in which nothing controls the terminal, and the exit code where it cannot be written."""

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

DONE: Final = 0
FAILED: Final = 1
USAGE_ERROR: Final = 2


def printable(text: str, shown: Callable[[str], str] = lambda _: "�") -> str:
    """Return a text without what controls a terminal: names and problems come from clients and from servers."""
    return "".join(char if char.isprintable() else shown(char) for char in text)


def printable_json(document: Any) -> str:
    """Return a document as JSON of many lines, in which what controls a terminal is escaped."""
    lines = json.dumps(document, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(printable(line, lambda char: json.dumps(char)[1:-1]) for line in lines)


def write_out(program: str, write: Callable[[], object]) -> int:
    """Write to standard output and return the exit code. Nothing is said where the reader of a pipe has gone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return FAILED
    except OSError as exc:
        _discard_output()
        return report_problem(program, f"the output cannot be written: {exc.strerror}", FAILED)
    return DONE


def report_problem(program: str, problem: object, code: int) -> int:
    """Say on standard error what went wrong, and return the exit code."""
    print(f"{program}: {printable(str(problem))}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Drop what is left in the buffer: Python would fail to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
