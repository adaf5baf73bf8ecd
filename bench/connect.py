"""Clients connect and join, many at once: what each costs the server, beside a process that only answers."""

from collections.abc import Callable
from itertools import count

from bench import report
from bench.load import Crowd, room_name
from bench.processes import Measured, peer, server
from bench.rounds import interleaved
from bench.store import store

CLIENTS = 4_000
AT_ONCE = 200
ROOM_MEMBERS = 20
WELCOME_BYTES = 420
SYNC_BYTES = 1_300
MEMORY_TARGET_US = 190
SHARED_TARGET_US = 300
STORE_TARGET_US = 60
LEFT_AT_ONCE = "--presence.grace_lost_ms=1"
"""Who drops has left: no timer of the last round runs in the next."""
WHAT = f"""\
{CLIENTS:,} clients connect and join rooms of {ROOM_MEMBERS}, {AT_ONCE} under way at a time, each as its own user; a
round is over when all have their `sync` and nobody has been told anything for half a second. Then they drop, which
does not count, and the next round is of other rooms. The floor answers 101, a welcome of {WELCOME_BYTES} bytes and a
sync of {SYNC_BYTES} (`bench/peers/answers.py`), to as many clients in the same manner, and tells nobody about others.
The shared store is Valkey on a unix socket. CPU is all that a process used, over the clients."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    rooms = count()
    store_us: list[float] = []
    with (
        store() as shared,
        server(LEFT_AT_ONCE) as alone,
        server(LEFT_AT_ONCE, f"--redis.url={shared.url}") as node,
        peer("answers", WELCOME_BYTES, SYNC_BYTES) as floor,
    ):

        def coming_to(process: Measured, *others: Measured) -> Callable[[], float]:
            def come() -> float:
                measured = [process, *others]
                with Crowd() as crowd:
                    begin_ns = [one.cpu_ns() for one in measured]
                    crowd.come(process, _joins(rooms), AT_ONCE)
                    crowd.settle(0.5)
                    spent_us = [
                        (one.cpu_ns() - begin) / CLIENTS / 1e3
                        for one, begin in zip(measured, begin_ns, strict=True)
                    ]
                store_us.extend(spent_us[1:])
                process.rest()
                return spent_us[0]

            return come

        spent_us = interleaved(
            {"floor": coming_to(floor), "memory": coming_to(alone), "shared": coming_to(node, shared)}, rounds
        )
    figures = [
        report.per_round("floor, CPU per client", "µs", spent_us["floor"]),
        report.per_round("memory store, a node's CPU per client", "µs", spent_us["memory"]),
        report.per_round("shared store, a node's CPU per client", "µs", spent_us["shared"]),
        report.per_round("shared store, the store's CPU per client", "µs", store_us[1:]),
        report.ratio("memory store / floor", spent_us["memory"], spent_us["floor"]),
        report.ratio("shared store / floor", spent_us["shared"], spent_us["floor"]),
    ]
    targets = [
        report.Target(figure=figures[1].name, bound="at most", limit=MEMORY_TARGET_US),
        report.Target(figure=figures[2].name, bound="at most", limit=SHARED_TARGET_US),
        report.Target(figure=figures[3].name, bound="at most", limit=STORE_TARGET_US),
    ]
    return report.Result(name="connect", what=WHAT, figures=figures, targets=targets)


def _joins(rooms: "count[int]") -> list[bytes]:
    """Return a `join` for each client, of rooms that nobody has joined yet."""
    first = next(rooms) * CLIENTS
    return [
        b'{"t":"join","id":1,"room":"%s","state":{"name":"somebody"}}'
        % room_name(first + number // ROOM_MEMBERS)
        for number in range(CLIENTS)
    ]
