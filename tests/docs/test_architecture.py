"""ARCHITECTURE.md names what there is, and its table of states is the one that decides."""

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from presence_server.client import connect
from presence_server.cluster.connectivity import (
    TABLE,
    ClockStepped,
    Effect,
    Event,
    HistoryBroken,
    Lost,
    NodeForgotten,
    OthersSilent,
    OwnMemberLost,
    Rejoined,
    Restored,
    Row,
    State,
    Suspended,
)
from tests.docs.pages import PROJECT, read, rows, section
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

EVENTS: Final[dict[str, type[Event]]] = {
    "contact is lost": Lost,
    "contact is restored": Restored,
    "this process was frozen": Suspended,
    "a member of this node was lost": OwnMemberLost,
    "the store did not know this node": NodeForgotten,
    "the history of a room was lost": HistoryBroken,
    "everything is answered, and the hold is over": Rejoined,
    "the store's clock was put forward": ClockStepped,
    "this node begins, and all others are silent": OthersSilent,
}


EFFECTS: Final = {
    Effect.ISOLATE: "serve from memory",
    Effect.RENEW_CONTACT: "give the connections up",
    Effect.REPEAT_CLAIMS: "repeat claims",
    Effect.READ_ROOMS: "read or compare rooms",
    Effect.ENTER_MEMBERS: "enter members",
    Effect.REPLAY_DEPARTURES: "tell departures",
    Effect.NOTE_ANEW: "note connections and rooms anew",
    Effect.FORGET_ISOLATION: "forget what was done in memory",
    Effect.SHOW_STALENESS: "tell staleness",
    Effect.DELIVER_UNSENT: "deliver here what has not come back",
    Effect.FOLLOW_POLICY: "look at the policy",
}
"""How the page names effects; members that are still provisional leave after a TTL, and no event."""
AT_THE_END: Final = "once more at the end"


def _rows() -> dict[tuple[State, type[Event]], tuple[State, list[str]]]:
    """Return the state that follows and the names of the effects, in order, by state and event."""
    table = read("ARCHITECTURE.md").split("| state | event | then | effects |\n")[1].split("\n\n")[0]
    rows = {}
    for line in table.splitlines()[1:]:
        states, event, then, effects = (cell.strip() for cell in line.strip("|").split("|"))
        named = [effect.partition(",")[0] for effect in effects.split("; ")]
        for state in (State[name] for name in states.split(", ")):
            rows[state, EVENTS[event]] = (state if then == "the same" else State[then], named)
    return rows


def _is_idle(key: tuple[State, type[Event]], row: Row) -> bool:
    """Tell whether nothing follows; of a member that is lost during a rejoin follows what the end of it does."""
    return row == Row(key[0]) and key != (State.REJOINING, OwnMemberLost)


def test_every_row_that_does_something_is_in_the_table_with_what_it_does_in_order() -> None:
    expected = {}
    for key, row in TABLE.items():
        named = [EFFECTS[effect] for effect in row.effects]
        named += ["provisional"] * row.provisional + ["hold"] * row.hold
        if key[0] is State.REJOINING and key[1] in {OwnMemberLost, NodeForgotten, HistoryBroken}:
            named.append(AT_THE_END)
        if not _is_idle(key, row):
            expected[key] = (row.state, named)
    assert _rows() == expected


def test_what_no_row_does_is_what_the_passing_of_a_ttl_does() -> None:
    assert {effect for row in TABLE.values() for effect in row.effects} == set(EFFECTS)
    assert set(Effect) - set(EFFECTS) == {Effect.RESOLVE_PROVISIONAL}


def test_every_package_and_module_has_a_row_that_says_what_it_owns() -> None:
    table = section(read("ARCHITECTURE.md"), "## The way through it")
    owners = {name.strip("`/") for first, *_ in rows(table) for name in first.split(", ")}
    files = (
        path.relative_to(PROJECT / "presence_server") for path in (PROJECT / "presence_server").rglob("*.*")
    )
    product = {Path(file.parts[0]).stem for file in files if file.suffix not in {".pyc", ".typed"}}
    assert {name for name in product if not name.startswith("_")} - owners == set()


def test_the_order_of_imports_is_the_one_that_is_checked() -> None:
    chain = re.search(r"Imports point one way: `(.+?)`", read("ARCHITECTURE.md"), re.DOTALL)
    assert chain is not None
    told = [set(re.split(r",\s+", layer)) for layer in re.split(r"\s+→\s+", chain[1])]
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert told == [set(layer.split(" | ")) for layer in layers if layer != "__main__"]


NAMED: Final = re.compile(r"`([\w/]+\.(?:py|lua)|[\w/]+/)`(?:\s+\(((?:`[\w.]+`(?:, )?)+)\)|, `([\w.]+)`\))?")
"""A file, and the names in it that stand behind it: `file.py` (`Class.function`), or (`file.py`, `Class.function`)."""
RULES: Final = "## Where a rule lives"
WALK: Final = "## The walk of a join"
NEAR: Final = range(1, 12)
"""The steps on the node that the client is connected to."""
FAR: Final = range(12, 16)
TRACER: Final = """
import atexit, os, sys

calls = []

def note(frame, event, _):
    if event == "call" and frame.f_globals.get("__name__", "").startswith("presence_server."):
        calls.append(frame.f_globals["__name__"].partition(".")[2] + ":" + frame.f_code.co_qualname)

def write():
    sys.setprofile(None)
    with open(os.environ["TRACE"], "w") as file:
        file.write("\\n".join(calls))

if "TRACE" in os.environ:
    atexit.register(write)
    sys.setprofile(note)
"""
"""What Python runs before a node: it notes every call of the server's functions."""


def _named(text: str) -> list[tuple[str, str]]:
    """Return the files that a text names and the names in them, in order; "": no name."""
    found = []
    for match in NAMED.finditer(text):
        names = re.findall(r"[\w.]+", match[2] or match[3] or "") or [""]
        found += [(match[1], name) for name in names]
    return found


def _defined(path: Path) -> set[str]:
    """Return the names that a module defines: functions, classes, their methods, and what it assigns."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name, body=body):
                members = [
                    each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                found |= {name, *(f"{name}.{member}" for member in members)}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found.add(name)
    return found


@pytest.mark.parametrize("heading", [RULES, WALK])
def test_every_file_and_every_name_in_it_exists(heading: str) -> None:
    named = _named(section(read("ARCHITECTURE.md"), heading))
    assert len(named) > 15
    for file, name in named:
        path = PROJECT / "presence_server" / file
        assert path.exists(), file
        assert not name or name in _defined(path), f"{file} has no {name}"


QUESTIONS: Final = [
    ("when is a slow client closed", {"slow", "client", "closed"}, "hub/outbox.py", "Outbox.is_over"),
    ("which epoch has a resumed connection", {"epoch", "resumed"}, "session/claims.py", "EpochClaims"),
    ("how long is a diff of a large room held back", {"diff", "large", "room"}, "hub/window.py", "due_ms"),
    (
        "what is checked first in a handshake",
        {"order", "checks", "handshake"},
        "edge/opening.py",
        "Opening",
    ),
    (
        "what does the limiter do without its store",
        {"limiter", "without", "store"},
        "throttle/fallback.py",
        "Fallback.judge",
    ),
    ("when does a node rejoin", {"node", "isolated", "rejoins"}, "cluster/connectivity.py", "TABLE"),
    ("how does the token bucket count", {"algorithm", "counts"}, "throttle/algorithms.py", "Bucket"),
    ("what are the keys in Redis", {"redis", "keys"}, "redis_io/keys.py", "Keys"),
    (
        "who may come back into a room that it was removed from",
        {"removed", "room", "out"},
        "registry/bans.py",
        "Bans.until",
    ),
    ("how large may a state be", {"large", "state"}, "rooms/permits.py", "Permits.check_state"),
    ("when does `if_version` conflict", {"if_version"}, "rooms/rooms.py", "Rooms.update"),
    (
        "how does a message reach another node",
        {"message", "reaches", "nodes"},
        "bus/redis.py",
        "RedisBus.publish",
    ),
    (
        "how many connections may an address have",
        {"connections", "address", "all", "nodes"},
        "throttle/leases.py",
        "Leases.acquire_lease",
    ),
    (
        "how does a changed rule of the limiter reach all nodes",
        {"rules", "change", "reaches"},
        "throttle/policy_follower.py",
        "PolicyFollower.look_for_change",
    ),
    (
        "what does a node do that was frozen",
        {"frozen"},
        "cluster/backend.py",
        "ClusterBackend.observe_clock",
    ),
    (
        "which address does a client have behind a proxy",
        {"address", "clients", "limited"},
        "throttle/address.py",
        "ClientAddresses.client",
    ),
    ("how long may one tick write", {"long", "tick", "writes"}, "hub/backlog.py", "Backlog.write_outboxes"),
]
"""What somebody asks who has not seen the code: the question, words to look for, and the file and name to begin."""


@pytest.mark.parametrize(
    ("words", "file", "name"), [case[1:] for case in QUESTIONS], ids=[case[0] for case in QUESTIONS]
)
def test_the_page_leads_whoever_looks_for_a_rule_to_it(words: set[str], file: str, name: str) -> None:
    table = rows(section(read("ARCHITECTURE.md"), RULES))
    found = [places for rule, places, *_ in table if words <= set(re.findall(r"\w+", rule.lower()))]
    assert len(found) == 1, f"rows that have {words}: {found}"
    assert (file, name) in _named(found[0])


def _steps(numbers: range) -> list[str]:
    """Return the functions that these steps of the walk name, as a trace has them."""
    _, *parts = re.split(r"(?m)^(\d+)\. ", section(read("ARCHITECTURE.md"), WALK))
    steps = {int(number): text.split("\n\n")[0] for number, text in zip(parts[::2], parts[1::2], strict=True)}
    assert sorted(steps) == [*NEAR, *FAR]
    return [
        f"{file.removesuffix('.py').replace('/', '.')}:{name}"
        for number in numbers
        for file, name in _named(steps[number])
        if name
    ]


def _missing(steps: list[str], trace: list[str]) -> list[str]:
    """Return the steps that do not come in this order, from the first one that does not."""
    calls = iter(trace)
    for number, step in enumerate(steps):
        if step not in calls:
            return steps[number:]
    return []


async def test_a_join_goes_the_way_that_the_walk_says(tmp_path: Path, anyio_backend: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRACER)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    with RedisServer("valkey") as server:
        near, far = (
            Node(tmp_path, "--redis.url", server.url, env={"TRACE": str(tmp_path / name), "PYTHONPATH": path})
            for name in ("near", "far")
        )
        async with near, far, connect(far.ws_url, user="bob") as bob:
            room = await bob.join("lobby")
            async with connect(near.ws_url, user="ann") as ann:
                await ann.join("lobby")
                await until(lambda: set(room.users) == {"ann", "bob"})
    traces = {name: (tmp_path / name).read_text().splitlines() for name in ("near", "far")}
    assert (len(_steps(NEAR)), len(_steps(FAR))) > (11, 5)
    assert _missing(_steps(NEAR), traces["near"]) == []
    assert _missing(_steps(FAR), traces["far"]) == []
