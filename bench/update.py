"""One `update` in, handled and acknowledged, against the bare Sans-I/O echo of as many bytes."""

from functools import partial

from bench import report
from bench.load import Connection, room_name
from bench.processes import Measured, peer, server
from bench.rounds import interleaved

TIMES = 512
"""Messages of each kind in a round."""
CROWD = 64
"""Connections of the second pacing."""
TOGETHER = 32
"""Messages in one segment of the third."""
MESSAGE_BYTES = 100
FIRST = 1_000_000
"""The first message's number: all have as many digits."""
ANSWERED = b'"id":%d,'
"""In an echo, and in an `ok`."""
TOLD = b'"n":%d,'
"""In an echo, and in a diff."""
TARGET = 3
WHAT = f"""\
Messages of {MESSAGE_BYTES} bytes, {TIMES:,} of each kind a round. The echo answers with the same frame
(`websockets`' Sans-I/O `ServerProtocol` in an `asyncio.Protocol`, on the server's kind of event loop).
The server validates an `update`, stores it, and answers `ok`; each member is alone in its room, in mode
full, so that each update is also a diff, which goes to the member itself; in mode none there is no
diff. Three pacings: one connection, each message when the answer to the one before has come, so that
every message pays for a wake-up of the process; {CROWD} connections, each in that manner, so that the
process is busy; one connection with {TOGETHER} messages in one segment, which are one tick, one diff
and one write. The first two count. CPU is all that the process used."""


class Side:
    """What answers, and the connections that ask it; `marks` are in the answers, with a message's number."""

    def __init__(self, process: Measured, connections: list[Connection], *marks: bytes) -> None:
        self._process = process
        self._connections = connections
        self._marks = marks

    def spend(self, connections: int, together: int) -> float:
        """Send `TIMES` messages, so many at once on each connection; return the CPU time of each in µs."""
        asking = self._connections[:connections]
        begin_ns = self._process.cpu_ns()
        for first in range(FIRST, FIRST + TIMES // connections, together):
            last = first + together - 1
            for room, connection in enumerate(asking):
                connection.send(*(_message(room, number) for number in range(first, last + 1)))
            for connection in asking:
                connection.receive_marked(*(mark % last for mark in self._marks))
        return (self._process.cpu_ns() - begin_ns) / TIMES / 1000

    def close(self) -> None:
        """Drop the connections."""
        for connection in self._connections:
            connection.close()


def measure(rounds: int) -> report.Result:
    """Run it."""
    paces = {
        "one at a time": (1, 1),
        f"{CROWD} connections": (CROWD, 1),
        f"{TOGETHER} at once": (1, TOGETHER),
    }
    figures, ratios = [], []
    with peer("echo") as echo, server() as node, server() as silent_node:
        sides = {
            "echo": Side(echo, [_echoed(echo) for _ in range(CROWD)], ANSWERED),
            "update with its diff": Side(node, _members(node, b"full"), ANSWERED, TOLD),
            "update, mode none": Side(silent_node, _members(silent_node, b"none"), ANSWERED),
        }
        for pace, shape in paces.items():
            spent_us = interleaved(
                {kind: partial(side.spend, *shape) for kind, side in sides.items()}, rounds
            )
            figures += [report.per_round(f"{kind}, {pace}, CPU", "µs", us) for kind, us in spent_us.items()]
            echo_us = spent_us.pop("echo")
            ratios += [report.ratio(f"{kind} / echo, {pace}", us, echo_us) for kind, us in spent_us.items()]
        for side in sides.values():
            side.close()
    targets = [
        report.Target(figure=f"update with its diff / echo, {pace}", bound="at most", limit=TARGET)
        for pace in list(paces)[:2]
    ]
    return report.Result(name="update", what=WHAT, figures=figures + ratios, targets=targets)


def _echoed(echo: Measured) -> Connection:
    connection = Connection(echo)
    connection.upgrade(echo)
    return connection


def _members(node: Measured, mode: bytes) -> list[Connection]:
    """Return the only members of `CROWD` rooms."""
    members = []
    for room in range(CROWD):
        connection = Connection(node)
        connection.upgrade(node, f"user-{room}")
        connection.send(b'{"t":"join","id":1,"room":"%s","mode":"%s"}' % (room_name(room), mode))
        connection.receive_marked(b'"t":"sync"')
        members.append(connection)
    return members


def _message(room: int, number: int) -> bytes:
    """Return an update of `MESSAGE_BYTES`; its number is its id and in its state."""
    start = b'{"t":"update","id":%d,"room":"%s","state":{"n":%d,"text":"' % (number, room_name(room), number)
    end = b'"}}'
    return start + b"x" * (MESSAGE_BYTES - len(start) - len(end)) + end
