"""The mutants of a Python module: mutmut's operators, and what they leave out."""

from collections.abc import Iterator
from typing import Any, Final

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation import mutators

from mutation.mutant import Mutant

Node = Any
"""A node of libcst, whose types are not looked at here."""

LEFT_OUT: Final = {
    mutators.operator_string,  # below: whole words only, once
    mutators.operator_arg_removal,  # below
    mutators.operator_dict_arguments,
    mutators.operator_match,  # what is left out of a `match` is found by the statements in it
}
LOGGED: Final = frozenset(("debug", "info", "warning", "error", "exception"))


def mutants_of(source: str) -> list[Mutant]:
    """Return every mutant, in order."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
    lines = _line_starts(source)
    found = set()
    for node, other in _changes(wrapper.module):
        span = spans[node]
        start = lines[span.start.line - 1] + span.start.column
        end = lines[span.end.line - 1] + span.end.column
        text = _indented(
            wrapper.module.code_for_node(other), source[start:end], wrapper.module.code_for_node(node)
        )
        if source[start:end] != text:
            found.add(Mutant(start, end, text))
    return sorted(found)


def _indented(text: str, before: str, unindented: str) -> str:
    """Give back the indentation of lines after the first, which a node does not know."""
    if "\n" not in unindented:
        return text
    line, bare = before.split("\n")[1], unindented.split("\n")[1]
    indentation = line[: len(line) - len(bare)]
    return text.replace("\n", "\n" + indentation)


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _changes(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield each node that changes, and what it becomes."""
    if _is_no_code(node):
        return
    for kind, operator in mutators.mutation_operators:
        if isinstance(node, kind) and operator not in LEFT_OUT:
            yield from ((node, other) for other in operator(node) if not _is_false_as_none(node, other))
    yield from _others(node)
    for child in _children(node):
        yield from _changes(child)


def _is_false_as_none(node: Node, other: Node) -> bool:
    """Tell whether False becomes None, which is as false."""
    kinds = cst.Assign | cst.AnnAssign
    return (
        isinstance(node, kinds) and isinstance(other, kinds) and bool(m.matches(node.value, m.Name("False")))
    )


def _children(node: Node) -> Iterator[Node]:
    """Yield what of a node runs: not the bases of a class, whose arguments say what it is."""
    if isinstance(node, cst.ClassDef):
        yield node.body
    elif isinstance(node, cst.FunctionDef):
        yield from (param.default for param in _params(node.params) if param.default is not None)
        yield node.body
    else:
        yield from node.children


def _params(params: Node) -> Iterator[Node]:
    yield from params.params
    yield from params.kwonly_params


def _is_no_code(node: Node) -> bool:
    """Tell what is left alone: annotations, imports, documentation, logging, and what only the type checker reads."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Assert):
        return True
    if isinstance(node, cst.If):
        return bool(m.matches(node.test, m.Name("TYPE_CHECKING")))
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.SimpleString | cst.ConcatenatedString) or _is_logging(node.value)
    if isinstance(node, cst.AnnAssign):
        return bool(m.matches(node.annotation.annotation, m.Name("TypeAlias")))
    if isinstance(node, cst.Assign):
        return bool(m.matches(node.targets[0].target, m.Name("__slots__")))
    return isinstance(node, cst.Call) and m.matches(node.func, m.Name("cast") | m.Name("TypeVar"))


def _is_logging(call: Node) -> bool:
    if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return False
    name, of = call.func.attr.value, cst.Module([]).code_for_node(call.func.value)
    return (name in LOGGED and "log" in of.lower()) or (name == "note" and of.startswith("_"))  # a `FloodLog`


def _others(node: Node) -> Iterator[tuple[Node, Node]]:
    if isinstance(node, cst.SimpleString):
        yield from ((node, other) for other in _other_word(node))
    elif isinstance(node, cst.Call):
        yield from ((node, other) for other in _other_arguments(node))
    elif isinstance(node, cst.Return):
        if node.value is not None and not m.matches(node.value, m.Name("None") | m.Name("False")):
            yield node.value, cst.Name("None")
    elif isinstance(node, cst.If | cst.While):
        if isinstance(node.test, cst.Name | cst.Attribute | cst.Call | cst.Subscript | cst.NamedExpr):
            parenthesized = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            yield node.test, cst.UnaryOperation(cst.Not(), parenthesized)
    elif isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1 and _does_something(node.body[0]):
        yield node.body[0], cst.Pass()


def _other_word(node: Node) -> Iterator[Node]:
    """Change words, which are values; a sentence is for people, and a test that repeats it shows nothing."""
    word = node.evaluated_value
    if isinstance(word, str) and " " not in word and "\n" not in word:
        yield node.with_changes(value=repr(f"XX{word}"))


def _other_arguments(call: Node) -> Iterator[Node]:
    """None for each argument, and no argument where it has a name (and may have a default)."""
    if m.matches(call.func, m.Name("len") | m.Name("isinstance")):
        return
    for other in mutators.operator_arg_removal(call):
        removed = len(other.args) < len(call.args)
        if _names(other) < _names(call) if removed else not _is_false_now_none(call, other):
            yield other


def _is_false_now_none(call: Node, other: Node) -> bool:
    changed = [one for one, two in zip(call.args, other.args, strict=True) if one is not two]
    return all(m.matches(arg.value, m.Name("False")) for arg in changed)


def _names(call: Node) -> int:
    return sum(arg.keyword is not None for arg in call.args)


def _does_something(statement: Node) -> bool:
    """Tell whether a statement has an effect and gives no name to it, so that it can be left out."""
    if isinstance(statement, cst.Expr):
        return isinstance(statement.value, cst.Call | cst.Await | cst.Yield) and not _is_logging(
            statement.value
        )
    if isinstance(statement, cst.Assign):
        return any(isinstance(each.target, cst.Attribute | cst.Subscript) for each in statement.targets)
    return isinstance(statement, cst.AugAssign | cst.Del | cst.Raise)
