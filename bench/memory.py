"""Memory of a connection that has joined a room and does nothing."""

from bench import report
from bench.load import Crowd
from bench.processes import Memory, server

CONNECTIONS = 10_000
ROOM_MEMBERS = (10, 1_000)
PING_MS = 2_000
IDLE_S = 5
"""Long enough for each connection to have answered a ping: some state begins only then."""
TARGET_KIB = 12
WHAT = f"""\
{CONNECTIONS:,} connections join rooms in the default mode, without compression, and then only answer
pings for {IDLE_S} s (one every {PING_MS / 1000:g} s). Memory per connection is the difference that they
make to the server's process, by the kernel's count (`smaps_rollup`); anonymous is the part that no
file backs. Sockets' own buffers are the kernel's and not in it. Each round has a fresh server for each
size of rooms."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    figures, targets = [], []
    spent: dict[int, list[Memory]] = {size: [] for size in ROOM_MEMBERS}
    for _ in range(rounds):
        for size in ROOM_MEMBERS:
            spent[size].append(_spent(size))
    for size, memories in spent.items():
        name = f"resident per connection, rooms of {size:,}"
        figures.append(report.per_round(name, "KiB", (m.resident / 1024 for m in memories)))
        targets.append(report.Target(figure=name, bound="at most", limit=TARGET_KIB))
        name = f"anonymous per connection, rooms of {size:,}"
        figures.append(report.per_round(name, "KiB", (m.anonymous / 1024 for m in memories)))
    return report.Result(name="memory", what=WHAT, figures=figures, targets=targets)


def _spent(room_members: int) -> Memory:
    """Return the memory of one connection."""
    flags = ("--server.max_connections=12000", f"--presence.ping_ms={PING_MS}")
    with server(*flags) as node, Crowd() as members:
        before = node.memory()
        members.join(node, CONNECTIONS, room_members)
        members.idle(IDLE_S)
        after = node.memory()
    return Memory(
        (after.resident - before.resident) // CONNECTIONS, (after.anonymous - before.anonymous) // CONNECTIONS
    )
