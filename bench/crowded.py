"""A room of twenty thousand members beside one of twenty: what a join and a page cost, and what a node holds of it."""

from collections.abc import Callable

import msgspec
import redis

from bench import report
from bench.load import Connection, room_name
from bench.processes import Measured, server
from bench.rounds import interleaved
from bench.store import Store, store
from presence_server.presence import script_calls
from presence_server.presence.operations import Enter, Sent
from presence_server.presence.redis import SCRIPTS
from presence_server.redis_io.keys import Keys

MEMBERS = {"20": (room_name(20), 20), "20,000": (room_name(20_000), 20_000)}
TIMES = 100
PAGE_MEMBERS = 100
LONG_MS = 3_600_000
INFO, STATE = msgspec.Raw(b'{"name":"Some Name"}'), msgspec.Raw(b'{"status":"here","page":"/some/page"}')
JOIN_RATIO, VIEW_MIB, CALL_MS = 1.5, 1, 5
WHAT = f"""\
Two rooms of a shared store (Valkey on a unix socket), with 20 and 20,000 members of another node. A client
joins and leaves each {TIMES} times, in mode count, and asks {TIMES} times for its first {PAGE_MEMBERS} members: CPU of
the store for each join with its leave, and for each page; of the node for each page. Memory is what the
node's process has more (no file behind it) after it has begun to watch the large room. Then the large room
is read as a node reads one: the store's CPU for each of the calls that this takes."""


def fill(shared: Store, room: bytes, members: int) -> None:
    """Enter members of another node, as that node does."""
    keys, name = Keys("ps"), room.decode()
    with redis.Redis(unix_socket_path=shared.path) as client:
        for begin in range(0, members, 100):
            seconds, micros = client.time()
            sent = Sent(int(seconds) * 1_000 + int(micros) // 1_000, LONG_MS, 0)
            rows = [
                script_calls.pack(
                    Enter(f"cid-{n:016}", f"user-{n}", INFO, STATE, 1, "elsewhere", LONG_MS)
                ).rows[0]
                for n in range(begin, min(begin + 100, members))
            ]
            arguments = script_calls.arguments(keys.channel(name), "1", LONG_MS, sent, rows)
            client.eval(SCRIPTS["enter"].text, 6, *keys.room(name), *arguments)


def spent_us(process: Measured, times: int, work: Callable[[], None]) -> float:
    """Return the CPU time of a process for one of so many, in µs."""
    begin_ns = process.cpu_ns()
    work()
    return (process.cpu_ns() - begin_ns) / 1e3 / times


def call_ms(shared: Store) -> float:
    """Return the store's CPU for one call of those that read the large room, in ms."""
    keys, name = Keys("ps"), MEMBERS["20,000"][0].decode()
    cursor, calls = "scan:0", 0
    with redis.Redis(unix_socket_path=shared.path) as client:
        begin_ns = shared.cpu_ns()
        while cursor:
            row = script_calls.page_row(cursor, 500, bytes_max=262_144, step=50)
            arguments = script_calls.arguments(keys.channel(name), "1", LONG_MS, Sent(0, 2**53, 0), [row])
            answered = client.eval(SCRIPTS["page"].text, 6, *keys.room(name), *arguments)
            cursor = script_calls.page_answer(answered).following
            calls += 1
        return (shared.cpu_ns() - begin_ns) / 1e6 / calls


def measure(rounds: int) -> report.Result:
    """Run it."""
    with store() as shared, server(f"--redis.url={shared.url}") as node:
        for room, members in MEMBERS.values():
            fill(shared, room, members)
        client = Connection(node)
        client.upgrade(node, "client")

        def join(room: bytes) -> None:
            for _ in range(TIMES):
                client.send(b'{"t":"join","id":1,"room":"%s","mode":"count"}' % room)
                client.receive_marked(b'"id":1')
                client.send(b'{"t":"leave","id":2,"room":"%s"}' % room)
                client.receive_marked(b'"id":2')

        def page(room: bytes) -> None:
            client.send(b'{"t":"watch","id":1,"room":"%s","mode":"none"}' % room)
            client.receive_marked(b'"id":1')
            for _ in range(TIMES):
                client.send(b'{"t":"members","id":3,"room":"%s","limit":%d}' % (room, PAGE_MEMBERS))
                client.receive_marked(b'"t":"page"')

        join(MEMBERS["20"][0])
        page(MEMBERS["20"][0])
        before = node.memory().anonymous
        join(MEMBERS["20,000"][0])
        view_mib = (node.memory().anonymous - before) / 2**20
        kinds: dict[str, Callable[[], float]] = {}
        for what, work, measured in (
            ("join", join, shared),
            ("page", page, shared),
            ("page, the node", page, node),
        ):
            for size, (room, _) in MEMBERS.items():

                def once(
                    work: Callable[[bytes], None] = work, measured: Measured = measured, room: bytes = room
                ) -> float:
                    return spent_us(measured, TIMES, lambda: work(room))

                kinds[f"{what} {size}"] = once
        kinds["call"] = lambda: call_ms(shared)
        spent_in = interleaved(kinds, rounds)
    small, large = MEMBERS
    figures = [
        report.per_round(
            "a join of a room of 20,000 and a leave, the store's CPU", "µs", spent_in[f"join {large}"]
        ),
        report.per_round("a page of 100 of 20,000, the store's CPU", "µs", spent_in[f"page {large}"]),
        report.per_round(
            "a page of 100 of 20,000, the node's CPU", "µs", spent_in[f"page, the node {large}"]
        ),
        report.ratio(
            "a join, the store's CPU, 20,000 / 20", spent_in[f"join {large}"], spent_in[f"join {small}"]
        ),
        report.per_round("a call that reads 500 of 20,000, the store's CPU", "ms", spent_in["call"]),
        report.per_round("a node that watches a room of 20,000: memory", "MiB", [view_mib]),
    ]
    targets = [
        report.Target(figure="a join, the store's CPU, 20,000 / 20", bound="at most", limit=JOIN_RATIO),
        report.Target(
            figure="a call that reads 500 of 20,000, the store's CPU", bound="at most", limit=CALL_MS
        ),
        report.Target(figure="a node that watches a room of 20,000: memory", bound="at most", limit=VIEW_MIB),
    ]
    return report.Result(name="crowded", what=WHAT, figures=figures, targets=targets)
