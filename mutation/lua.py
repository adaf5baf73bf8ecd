"""The mutants of a Lua script: other operators, other constants, negated conditions, statements left out."""

import re
from collections.abc import Iterator
from typing import Final

from mutation.mutant import Mutant

OPAQUE: Final = re.compile(r"""--[^\n]*|^\#![^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\"""", re.MULTILINE)
"""Comments and strings."""
SWAPS: Final = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "~=",
    "~=": "==",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "and": "or",
    "or": "and",
    "true": "false",
    "false": "true",
    "math.max": "math.min",
    "math.min": "math.max",
    "max": "min",
    "min": "max",
    "not ": "",
}
OPERATOR: Final = re.compile(
    r"<=|>=|==|~=|<|>|(?<=\s)[-+*/](?=\s)|\bmath\.(?:max|min)\b|\b(?<!\.)(?:max|min)(?=\()"
    r"|\b(?:and|or|true|false)\b|\bnot\s"
)
NUMBER: Final = re.compile(r"(?<![\w.])\d+(?![\w.])")
CONDITION: Final = re.compile(r"\b(?:if|elseif|while)\s+(.+?)\s+(?:then|do)$", re.MULTILINE)
RETURN: Final = re.compile(r"(?<=\breturn )(?!finish\(|nil\b)([^\n]+)$", re.MULTILINE)
STATEMENT: Final = re.compile(
    r"^[ \t]*(?!local |function |return |for |if |while )[A-Za-z_][\w.\[\]# +,]*(?:\(| = )", re.MULTILINE
)


def mutants_of(source: str) -> list[Mutant]:
    """Return every mutant, in order."""
    code = OPAQUE.sub(_blank, source)
    return sorted(
        {*_swapped(code), *_counted(code), *_negated(source, code), *_returned(code), *_left_out(code)}
    )


def _blank(found: re.Match[str]) -> str:
    """Keep the quotes, so that what is between them is still one value."""
    text = found.group()
    return " " * len(text) if text[0] in "-#" else text[0] + "x" * (len(text) - 2) + text[-1]


def _swapped(code: str) -> Iterator[Mutant]:
    for found in OPERATOR.finditer(code):
        yield Mutant(found.start(), found.end(), SWAPS[found.group()])


def _counted(code: str) -> Iterator[Mutant]:
    for found in NUMBER.finditer(code):
        yield Mutant(found.start(), found.end(), str(int(found.group()) + 1))


def _negated(source: str, code: str) -> Iterator[Mutant]:
    for found in CONDITION.finditer(code):
        condition = source[found.start(1) : found.end(1)]
        if not re.search(r"==|~=|\band\b|\bor\b|^not\b", condition):
            yield Mutant(found.start(1), found.end(1), f"not ({condition})")


def _returned(code: str) -> Iterator[Mutant]:
    for found in RETURN.finditer(code):
        if code[: found.end()].count("(") == code[: found.end()].count(")"):
            yield Mutant(found.start(), found.end(), "nil")


def _left_out(code: str) -> Iterator[Mutant]:
    """Leave out calls whose result nobody takes, and assignments."""
    for found in STATEMENT.finditer(code):
        begin = found.end() - len(found.group().lstrip())
        end = _end_of_statement(code, begin)
        yield Mutant(begin, end, "")


def _end_of_statement(code: str, begin: int) -> int:
    end = code.find("\n", begin)
    while (end := end if end >= 0 else len(code)) < len(code) and _depth(code[begin:end]) > 0:
        end = code.find("\n", end + 1)
    return end


def _depth(code: str) -> int:
    return sum(code.count(opening) for opening in "({[") - sum(code.count(closing) for closing in ")}]")
