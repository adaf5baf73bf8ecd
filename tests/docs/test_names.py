"""The old names that CONTRIBUTING.md lists do not come back, and a name leads to few places."""

import ast
import builtins
import keyword
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from presence_server.protocol.codes import ErrorCode
from tests.docs.pages import PROJECT, read, rows, section

TABLE: Final = [
    (old, (place.strip("`") or "*"))
    for was, _, place in list(rows(section(read("CONTRIBUTING.md"), "### Old names")))[1:]
    for old in re.findall(r"`([^`]+)`", was)
]
SEARCHED: Final = [
    *sorted(path for path in (PROJECT / "presence_server").rglob("*") if path.suffix in {".py", ".lua"}),
    *sorted((PROJECT / "docs").glob("*.md")),
    PROJECT / "README.md",
    PROJECT / "ARCHITECTURE.md",
]
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _finder(old: str) -> Callable[[str], bool]:
    """Return a function that tells whether a line has a name; a plain word is also found within identifiers."""
    if re.fullmatch("[a-z]+", old):
        return lambda line: any(word.lower() == old for word in WORD.findall(line))
    found = re.compile(rf"(?<![\w/]){re.escape(old)}(?!\w)").search
    return lambda line: found(line) is not None


def _places(old: str, where: str, texts: dict[Path, tuple[str, str]]) -> list[str]:
    """Return the places that have a name: the path, the number of the line, and the line."""
    has = _finder(old)
    return [
        f"{path}:{number}: {line.strip()}"
        for path, (text, lowered) in texts.items()
        if old.lower() in lowered and path.match(where)
        for number, line in enumerate(text.splitlines(), 1)
        if has(line)
    ]


@pytest.fixture(scope="module")
def texts() -> dict[Path, tuple[str, str]]:
    """Each file that is searched, as it is and in lower case."""
    return {
        path.relative_to(PROJECT): (text := path.read_text(encoding="utf-8"), text.lower())
        for path in SEARCHED
    }


@pytest.mark.parametrize(("old", "where"), TABLE, ids=[old for old, _ in TABLE])
def test_an_old_name_does_not_come_back(old: str, where: str, texts: dict[Path, tuple[str, str]]) -> None:
    assert _places(old, where, texts) == []


@pytest.mark.parametrize("old", [old for old, _ in TABLE if old.endswith(".py")])
def test_a_module_is_not_at_its_old_path(old: str) -> None:
    assert not (PROJECT / "presence_server" / old).exists()


def test_a_word_is_found_within_identifiers_and_a_name_only_whole() -> None:
    assert _finder("census")("class MemoryCensus:")
    assert _finder("census")("self._census_of(room)")
    assert not _finder("census")("consensus")
    assert _finder("Order")("def obey(order: Order)")
    assert not _finder("Order")("OrderedDict")
    assert _finder("presence/census.py")("asked in `presence/census.py`")


DEFINITIONS_MAX: Final = 5
"""More places than that say nothing of what a method does: it needs an object in its name, or a port."""
LOOP: Final = "run"
"""What the loop of a background task is called everywhere."""
STARTS: Final = {"main", "run"}
"""What begins a program is called everywhere."""
SHARED: Final = {
    "Counted": "what users of the client and of the limiter import",
    "Leave": "a message of the protocol, and an operation of the pure rules",
    "Message": "a message of the protocol, and the client's event of it",
    "Page": "a message of the protocol, and a file that is served",
    "Removed": "a message of the protocol, and the client's event of it",
    "Request": "of HTTP, as the framework and websockets call it, and of a participant",
    "Signal": "a message of the protocol, and the client's event of it",
}
"""Classes of one name in two packages, and why."""


@cache
def _classes() -> list[tuple[str, ast.ClassDef]]:
    """Return every class of the server with its module."""
    return [
        (str(path.relative_to(PROJECT / "presence_server")), node)
        for path in SEARCHED
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def _verbs(cls: ast.ClassDef) -> list[str]:
    """Return a class's public methods, without properties and without calls of the HTTP API (outside names)."""
    methods = [each for each in cls.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        each.name
        for each in methods
        if not each.name.startswith("_")
        and not any(
            "property" in (text := ast.unparse(mark)) or "ROUTES" in text for mark in each.decorator_list
        )
    ]


def test_a_verb_that_no_port_prescribes_has_few_definitions() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    prescribed: set[str] = {LOOP}
    for module, cls in _classes():
        if any("Protocol" in ast.unparse(base) for base in cls.bases):
            prescribed.update(_verbs(cls))
        for verb in _verbs(cls):
            places[verb].append(f"{module}: {cls.name}")
    assert len(places) > 500
    overloaded = {verb: found for verb, found in places.items() if len(found) > DEFINITIONS_MAX}
    assert {verb: found for verb, found in overloaded.items() if verb not in prescribed} == {}


def _functions() -> list[tuple[str, str]]:
    """Return every function of a module with that module."""
    return [
        (str(path.relative_to(PROJECT / "presence_server")), node.name)
        for path in SEARCHED
        if path.suffix == ".py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]


def test_two_modules_do_not_share_the_name_of_a_function() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, name in _functions():
        places[name].append(module)
    assert len(places) > 200
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in shared.items() if name not in STARTS} == {}
    assert shared.keys() >= STARTS


def test_two_packages_do_not_share_the_name_of_a_class() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, cls in _classes():
        places[cls.name].append(module)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in shared.items() if name not in SHARED} == {}
    assert SHARED.keys() <= shared.keys(), "a name that is shared no more stands here for nothing"


QUOTED: Final = re.compile(r"(?<!`)`([A-Za-z_]\w+)`(?!`)")
OUTSIDE: Final = {
    "Forwarded": "a header",
    "Request": "of HTTP, as the framework calls it",
    "_bytes": "the end of a name",
    "_ms": "the end of a name",
    "bye": "a message of the protocol",
    "currentLimit": "a field of Envoy's",
    "hour": "a unit of a rule",
    "minute": "a unit of a rule",
    "match": "of a compiled expression",
    "remote_address": "a key of Envoy's",
    "ssl_ca_certs": "an option of redis-py's",
}
"""What docstrings have in backticks and no package defines, and what it is."""


@cache
def _trees() -> dict[str, dict[Path, ast.Module]]:
    """Return the modules of each package of the server; a module beside them is a package to itself."""
    trees: dict[str, dict[Path, ast.Module]] = defaultdict(dict)
    for path in SEARCHED:
        if path.suffix == ".py":
            package = path.relative_to(PROJECT / "presence_server").parts[0]
            trees[package][path] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def _docstring(node: ast.AST) -> ast.Constant | None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            return first.value
    return None


def _identifiers(tree: ast.Module) -> Iterator[str]:
    """Yield what a module names, and the words of its texts but for docstrings: fields, commands, settings."""
    docstrings = {id(_docstring(node)) for node in ast.walk(tree)}
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name))
            ):
                yield name
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.alias(name=name):
                yield from name.split(".")
            case ast.ImportFrom(module=str(name)):
                yield from name.split(".")
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield from re.findall(r"\w+", text)


def _public_names() -> set[str]:
    """Return what leads somewhere from every package: classes, constants, modules, settings, error codes, Python."""
    names = {cls.name for _, cls in _classes()} | set(ErrorCode) | set(dir(builtins)) | set(keyword.kwlist)
    for package, modules in _trees().items():
        names |= {package.removesuffix(".py"), *(path.stem for path in modules)}
        for path, tree in modules.items():
            names |= {
                node.target.id
                for node in ast.walk(tree)
                if isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and (path.name == "settings.py" or node.target.id.isupper())
            }
    return names


def test_a_name_in_a_docstring_is_one_of_its_package() -> None:
    public = _public_names() | OUTSIDE.keys()
    quoted: set[str] = set()
    lost: list[str] = []
    for modules in _trees().values():
        known = public.union(*map(_identifiers, modules.values()))
        for path, tree in modules.items():
            for docstring in filter(None, map(_docstring, ast.walk(tree))):
                names = QUOTED.findall(str(docstring.value))
                quoted.update(names)
                lost += [f"{path.name}:{docstring.lineno}: {name}" for name in names if name not in known]
    assert len(quoted) > 500
    assert lost == []
    assert OUTSIDE.keys() <= quoted, "a name that no docstring has stands here for nothing"
