"""One message to a thousand connections, against a bare loop of `socket.send`."""

from bench import report
from bench.load import Connection, Crowd
from bench.processes import Measured, peer, server
from bench.room import MEMBERS, MESSAGE_BYTES, room
from bench.rounds import interleaved

TIMES = 5
"""Messages in a round."""
TARGET = 1.5
WHAT = f"""\
A message with {MESSAGE_BYTES} bytes of data goes to {MEMBERS:,} members of a room, {TIMES} times a
round, each when the one before has arrived everywhere. CPU per delivery is all that the server's
process used, reading and acknowledging the publish included. The floor is a process with a loop of
`socket.send` of as many bytes over {MEMBERS:,} TCP connections to the same reader, on the same core, in
turns with the server."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    with (
        server() as node,
        room(node) as members,
        peer("floor", MEMBERS, members.frame_bytes) as floor,
        Crowd() as readers,
    ):
        trigger = Connection(floor)
        readers.connect(floor, MEMBERS)
        spent_ns = interleaved(
            {
                "floor": lambda: _send(floor, trigger, readers, members.frame_bytes),
                "server": lambda: members.publish(1, TIMES),
            },
            rounds,
        )
        trigger.close()
    floor_us, server_us = ([ns / (MEMBERS * TIMES) / 1000 for ns in spent] for spent in spent_ns.values())
    figures = [
        report.per_round("floor, CPU per delivery", "µs", floor_us),
        report.per_round("server, CPU per delivery", "µs", server_us),
        report.ratio("server / floor", server_us, floor_us),
    ]
    targets = [report.Target(figure="server / floor", bound="at most", limit=TARGET)]
    return report.Result(name="fanout", what=WHAT, figures=figures, targets=targets)


def _send(floor: Measured, trigger: Connection, readers: Crowd, size: int) -> int:
    begin_ns = floor.cpu_ns()
    for _ in range(TIMES):
        trigger.sock.sendall(b"!")
        readers.count(1, size)
    return floor.cpu_ns() - begin_ns
