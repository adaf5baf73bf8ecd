"""What newcomers, idle clients and messages cost a node and its store: what docs/capacity.md reckons with."""

import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from bench import report
from bench.load import Connection, Crowd, LoadError, room_name
from bench.processes import Measured, ServerProcess, server
from bench.store import Store, store

NEWCOMERS = 5_000
AT_A_TIME = 20
ROOM_MEMBERS = 10
IDLE_S = 20
MESSAGES = 2_000
TEXT = b"x" * 120
KEPT = 2_000
CLIENT_KEPT = "a client in a room: the store's memory"
CLIENT_KEPT_BYTES = 1024
MEMBER = {"info": {"name": "Some Name"}, "state": {"status": "here", "page": "/some/page"}}
RULES = """
[[throttle.rules]]
name = "fixed"
limit = "100/60s"
[[throttle.rules]]
name = "sliding"
limit = "100/60s"
algorithm = "sliding"
"""
FLAGS = ("--server.max_connections=8000", "--limits.overload_ms=60000")
WHAT = f"""\
{NEWCOMERS:,} connections come, {AT_A_TIME} at a time, to a node with a shared store (Valkey on a unix socket)
and join rooms of {ROOM_MEMBERS} in the default mode: CPU for each, handshake, join and what others in the
room are told included. Then they do nothing but answer pings for {IDLE_S} s, at default settings: a part of
one core, heartbeats included, reckoned for 10,000. Memory of the store is the difference of `used_memory`
that they made, and that {KEPT:,} of each of other things make: members with 61 bytes of state and info that
a backend enters, in rooms of several sizes, keys of the limiter, sessions. Then {MESSAGES:,} messages of 120
bytes go to a room with a client on each of two nodes, one after the other, each when the one before has
arrived: CPU of the store, and of the node that only passes them to its client."""


class Expense:
    """CPU time that processes spent since it was made."""

    def __init__(self, *processes: Measured) -> None:
        self._processes = processes
        self._begin_ns = [process.cpu_ns() for process in processes]
        self._begin_s = time.monotonic()

    def us(self, times: int) -> list[float]:
        """Return what each spent, in µs for one of so many."""
        return [ns / 1e3 / times for ns in self._spent_ns()]

    def percent(self) -> list[float]:
        """Return which part of a core each spent."""
        took_ns = (time.monotonic() - self._begin_s) * 1e9
        return [100 * ns / took_ns for ns in self._spent_ns()]

    def _spent_ns(self) -> list[int]:
        return [
            process.cpu_ns() - begin for process, begin in zip(self._processes, self._begin_ns, strict=True)
        ]


def measure(rounds: int) -> report.Result:
    """Run it."""
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        with store() as shared, server(f"--redis.url={shared.url}", *FLAGS) as node, Crowd() as crowd:
            found = _newcomers(node, shared, crowd) | _idle(node, shared, crowd)
        with store() as shared:
            redis = f"--redis.url={shared.url}"
            with server(redis) as one, server(redis) as other:
                found |= _messages(one, other, shared)
        found |= _memory()
        for name, value in found.items():
            spent.setdefault(name, []).append(value)
    figures = [report.per_round(name, unit, values) for (name, unit), values in spent.items()]
    kept = report.Target(figure=CLIENT_KEPT, bound="at most", limit=CLIENT_KEPT_BYTES)
    return report.Result(name="capacity", what=WHAT, figures=figures, targets=[kept])


def _newcomers(node: ServerProcess, shared: Store, crowd: Crowd) -> dict[tuple[str, str], float]:
    before = _used_memory(shared)
    expense = Expense(node, shared)
    for first in range(0, NEWCOMERS, AT_A_TIME):
        numbers = range(first, min(first + AT_A_TIME, NEWCOMERS))
        connections = [Connection(node) for _ in numbers]
        for number, connection in zip(numbers, connections, strict=True):
            connection.ask_upgrade(node, f"user-{number}")
        for number, connection in zip(numbers, connections, strict=True):
            connection.receive_upgrade()
            connection.send(b'{"t":"join","id":1,"room":"%s"}' % room_name(number // ROOM_MEMBERS))
            crowd.add(connection)
        crowd.converse(0)
    crowd.settle()
    node_us, store_us = expense.us(NEWCOMERS)
    store_bytes = (_used_memory(shared) - before) / NEWCOMERS
    return {
        ("a newcomer: the node", "µs of CPU"): node_us,
        ("a newcomer: the store", "µs of CPU"): store_us,
        (CLIENT_KEPT, "bytes"): store_bytes,
    }


def _idle(node: ServerProcess, shared: Store, crowd: Crowd) -> dict[tuple[str, str], float]:
    expense = Expense(node, shared)
    crowd.idle(IDLE_S)
    node_percent, store_percent = (percent * 10_000 / NEWCOMERS for percent in expense.percent())
    return {
        ("10,000 idle clients: the node", "% of a core"): node_percent,
        ("10,000 idle clients: the store", "% of a core"): store_percent,
    }


def _messages(one: ServerProcess, other: ServerProcess, shared: Store) -> dict[tuple[str, str], float]:
    with closing(Connection(one)) as sender, closing(Connection(other)) as receiver:
        for user, (node, client) in {"ann": (one, sender), "bob": (other, receiver)}.items():
            client.upgrade(node, user)
            client.send(b'{"t":"watch","id":1,"room":"%s"}' % room_name(0))
            client.receive_marked(b'"t":"sync"')
        expense = Expense(other, shared)
        for _ in range(MESSAGES):
            sender.send(b'{"t":"publish","room":"%s","data":"%s"}' % (room_name(0), TEXT))
            receiver.receive_marked(TEXT)
        other_us, store_us = expense.us(MESSAGES)
    return {
        ("a message: the store, with two nodes in the room", "µs of CPU"): store_us,
        ("a message: a node that passes it to one client", "µs of CPU"): other_us,
    }


def _memory() -> dict[tuple[str, str], float]:
    """Return what the store keeps for one of each."""

    def member(room_members: int) -> Callable[[int], tuple[str, str, object]]:
        def request(n: int) -> tuple[str, str, object]:
            path = f"/v1/rooms/room-{room_members:03}-{n // room_members:06}/members/bot-{n:06}"
            return "PUT", path, MEMBER | {"user": f"user-{n:06}", "ttl_ms": 600_000}

        return request

    def hit(rule: str) -> Callable[[int], tuple[str, str, object]]:
        return lambda n: ("POST", "/v1/throttle/hit", {"rule": rule, "key": f"user-{n:06}"})

    kept = {f"a member, rooms of {size}": member(size) for size in (1, 10, 100)}
    kept |= {f"a key of the limiter, {rule}, one hit": hit(rule) for rule in ("fixed", "sliding")}
    kept["a session"] = lambda n: ("POST", "/v1/sessions", {"user": f"user-{n:06}", "info": MEMBER["info"]})
    found = {}
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as rules:
        rules.write(RULES)
        rules.flush()
        with store() as shared, server(f"--redis.url={shared.url}", f"--config={rules.name}") as node:
            for name, request in kept.items():
                before = _used_memory(shared)
                _call(node, map(request, range(KEPT)))
                found[f"{name}: the store's memory", "bytes"] = (_used_memory(shared) - before) / KEPT
    return found


def _call(node: ServerProcess, requests: Iterable[tuple[str, str, object]]) -> None:
    """Make calls of a node's internal port, over one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", node.api_port, timeout=60)) as connection:
        for method, path, body in requests:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status not in {200, 201}:
                raise LoadError(f"{method} {path}: {answer.status}")


def _used_memory(shared: Store) -> int:
    """Return what the store says that it uses, in bytes."""
    with closing(shared.connect()) as connection:
        connection.sendall(b"INFO memory\r\n")
        answer = connection.recv(1 << 16)
    (line,) = [line for line in answer.split(b"\r\n") if line.startswith(b"used_memory:")]
    return int(line.partition(b":")[2])
