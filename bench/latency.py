"""How long a message takes from a client of one node to a client of another, beside a bare PUBLISH."""

import time
from collections.abc import Callable
from statistics import median, quantiles

import anyio
from redis.asyncio import Redis

from bench import report
from bench.load import DEADLINE_S, Connection
from bench.machine import uses_uvloop
from bench.pacing import numbered, paced, until_s
from bench.processes import Measured, server
from bench.store import Store, store

RATE = 1_000
MESSAGES = 1_000
"""In a round."""
SIZE = 120
TEXT_BYTES = SIZE - len('""')
PUBLISH = b'{"t":"publish","room":"lobby","data":"%s"}'
TARGET = 2.5
WHAT = f"""\
{RATE:,} messages a second of {SIZE} bytes, {MESSAGES:,} a round, each timed by itself from just before it is
written to when it has been read. Server: a client of one node publishes, a client of another node is in the
room. Bare: PUBLISH and a subscription through redis-py, on the nodes' kind of event loop. Raw: the same on
blocking sockets, the least there is; it is shown, the target is held to bare. All in turns, on the same store
(Valkey on a unix socket); both nodes share one core, the store and the load the other. A sender that is late
sends at once; the time counts from when it does."""


Side = Callable[[], list[float]]


class Raw:
    """PUBLISH and SUBSCRIBE on raw connections."""

    def __init__(self, shared: Store) -> None:
        self._to, self._from = shared.connect(), shared.connect()
        for connection in (self._to, self._from):
            connection.settimeout(DEADLINE_S)
        self._from.sendall(b"SUBSCRIBE bare\r\n")
        self._from.recv(4096)

    def carry(self, text: bytes) -> None:
        """Return when a message has come."""
        self._to.sendall(b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nbare\r\n$%d\r\n%s\r\n" % (len(text), text))
        came = b""
        while text not in came:
            came += self._from.recv(4096)

    def settle(self) -> None:
        """Take what PUBLISH has answered."""
        self._to.setblocking(False)
        try:
            while self._to.recv(65_536):
                pass
        except BlockingIOError:
            self._to.settimeout(DEADLINE_S)


class Through:
    """A client of one node, and one of another."""

    def __init__(self, one: Measured, other: Measured) -> None:
        self._to, self._from = Connection(one), Connection(other)
        for connection, node, user in ((self._to, one, "a"), (self._from, other, "b")):
            connection.upgrade(node, user)
            connection.send(b'{"t":"join","id":1,"room":"lobby","mode":"none"}')
            connection.receive_marked(b'"t":"sync"')

    def carry(self, text: bytes) -> None:
        """Return when a message has come."""
        self._to.send(PUBLISH % text)
        self._from.receive_marked(text)


def measure(rounds: int) -> report.Result:
    """Run it."""
    p50: dict[str, list[float]] = {"raw": [], "bare": [], "server": []}
    p99: dict[str, list[float]] = {"raw": [], "bare": [], "server": []}
    with store() as shared:
        flag = f"--redis.url={shared.url}"
        with server(flag) as one, server(flag) as other:
            raw, through = Raw(shared), Through(one, other)
            sides: dict[str, Side] = {
                "raw": lambda: paced(raw.carry, MESSAGES, RATE, TEXT_BYTES),
                "bare": lambda: _bare(shared),
                "server": lambda: paced(through.carry, MESSAGES, RATE, TEXT_BYTES),
            }
            for number in range(rounds + 1):
                for name, side in sides.items():
                    took_us = side()
                    raw.settle()
                    if number:
                        p50[name].append(median(took_us))
                        p99[name].append(quantiles(took_us, n=100)[98])
    figures = [
        report.per_round(f"{name}, {which}", "µs", took[name])
        for which, took in (("p50", p50), ("p99", p99))
        for name in p50
    ]
    figures.append(report.ratio("p50, server / bare", p50["server"], p50["bare"]))
    figures.append(report.ratio("p50, server / raw", p50["server"], p50["raw"]))
    figures.append(report.ratio("p99, server / bare", p99["server"], p99["bare"]))
    target = report.Target(figure="p50, server / bare", bound="at most", limit=TARGET)
    return report.Result(name="latency", what=WHAT, figures=figures, targets=[target])


def _bare(shared: Store) -> list[float]:
    """Return how long each of a round's messages took through the library, in µs."""
    return anyio.run(_publish, shared.url, backend_options={"use_uvloop": uses_uvloop()})


async def _publish(url: str) -> list[float]:
    took_us = []
    async with Redis.from_url(url) as publisher, Redis.from_url(url) as subscriber:
        heard = subscriber.pubsub(ignore_subscribe_messages=True)
        await heard.subscribe("bare")
        await heard.get_message(timeout=DEADLINE_S)
        begin_ns = time.perf_counter_ns()
        for number in range(MESSAGES):
            text = numbered(number, TEXT_BYTES)
            await anyio.sleep(max(0, until_s(begin_ns, number, RATE)))
            sent_ns = time.perf_counter_ns()
            await publisher.publish("bare", text)
            while True:
                message = await heard.get_message(timeout=DEADLINE_S)
                if message is not None and message["data"] == text:
                    break
            took_us.append((time.perf_counter_ns() - sent_ns) / 1e3)
        await heard.aclose()  # type: ignore[no-untyped-call]  # redis-py
    return took_us
