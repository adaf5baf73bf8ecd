"""How long a client is away when its node is stopped, behind each of the proxies of `deploy/`."""

import os
import signal
from contextlib import ExitStack
from statistics import median

import anyio

from bench import report
from bench.processes import server
from bench.store import store
from tests.support.daemon import LOOPBACK, free_port
from tests.support.front import HOSTS, KINDS, Front
from tests.support.guests import DEADLINE_S, guests
from tests.support.waiting import until

NODES = 3
CLIENTS = 60
"""One process with all of them comes back no faster than 250 a second; with more of them that is what is measured."""
DELAY_MS = 3_000
SEEN_S = 3
"""After this the proxies have seen every node."""
WHAT = f"""\
{CLIENTS} clients (the Python client, all in one process) in one room of {NODES} nodes, over TLS through a proxy
with the files of deploy/. One node is sent SIGTERM: with drain_delay_ms = {DELAY_MS:,} it serves on for so long,
then it tells each client to reconnect. A gap is the time from the end of a client's connection until it has the
room's roster again from another node. Clients, proxy, store and nodes share the machine."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    typical: dict[str, list[float]] = {kind: [] for kind in KINDS}
    longest: dict[str, list[float]] = {kind: [] for kind in KINDS}
    failures: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            gaps_ms, failed = anyio.run(_drain, kind, backend_options={"use_uvloop": True})
            typical[kind].append(median(gaps_ms))
            longest[kind].append(max(gaps_ms))
            failures[kind].append(failed)
    figures: list[report.Figure] = []
    targets: list[report.Target] = []
    for name, unit, found, limit in (
        ("median gap", "ms", typical, 200),
        ("longest gap", "ms", longest, 1_000),
        ("attempts that failed", "", failures, None),
    ):
        for kind in KINDS:
            figure = f"{kind}: {name}"
            figures.append(report.per_round(figure, unit, found[kind]))
            if limit is not None:
                targets.append(report.Target(figure=figure, bound="at most", limit=limit))
    return report.Result(name="drain", what=WHAT, figures=figures, targets=targets)


async def _drain(kind: str) -> tuple[list[float], int]:
    """Drain one node; return how long each of its clients was away, ms, and how many attempts to come back failed."""
    hosts = HOSTS[:NODES]
    port, api_port = free_port(*hosts), free_port(*hosts)
    with ExitStack() as stack:
        shared = stack.enter_context(store())
        flags = [f"--redis.url={shared.url}", f'--proxy.trusted=["{LOOPBACK}"]']
        flags += [f"--port={port}", f"--api-port={api_port}", f"--server.drain_delay_ms={DELAY_MS}"]
        if kind == "haproxy":
            flags.append("--proxy.protocol=true")
        nodes = [
            stack.enter_context(server(*flags, f"--server.host={host}", f"--server.api_host={host}"))
            for host in hosts
        ]
        front = stack.enter_context(Front(kind, hosts, port, api_port))
        await anyio.sleep(SEEN_S)
        users = [f"guest-{i}" for i in range(CLIENTS)]
        async with guests(front.url, users, tls=front.tls) as everybody:
            places = {guest: guest.client.node for guest in everybody}
            os.kill(nodes[0].pid, signal.SIGTERM)
            await until(lambda: any(guest.lost_s for guest in everybody), deadline_s=DEADLINE_S)
            (drained,) = {places[guest] for guest in everybody if guest.lost_s}
            moving = [guest for guest in everybody if places[guest] == drained]
            await until(
                lambda: all(guest.lost_s and guest.is_back for guest in moving), deadline_s=DEADLINE_S
            )
            gaps_ms = [1_000 * gap for guest in moving for gap in guest.gaps_s]
            return gaps_ms, sum(guest.failed_attempts for guest in moving)
