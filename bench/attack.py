"""Attacks from one address: what a well-behaved client beside them notices, and what they pin in memory."""

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from statistics import quantiles
from typing import Final

from bench import report
from bench.load import Connection, client_frame
from bench.processes import Measured, ServerProcess, server

IDLE_S = 3.0
ATTACK_S = 6.0
PAUSE_S = 0.025
"""Within `throttle.messages`."""
P99_MS = 100
PINNED_MIB = 64
MIB = 2**20
SPAWN = multiprocessing.get_context("fork")
ATTACKER = "127.0.0.66"
UPGRADE = (
    b"GET /ws?user=mallory HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
FLOOD_CONNECTIONS = 40
"""As many as come in within `throttle.connect`."""
WHAT = f"""\
A node with default settings. A well-behaved client asks (ping) every {PAUSE_S * 1000:.0f} ms, {IDLE_S:g} s with nobody
else and {ATTACK_S:g} s while an attack from another address goes on, in each round on a fresh node; p99 is of its
answers. Pinned is how much the node's memory has grown at most, what waits in outboxes included. The
attacks: half-open sockets, opened as fast as they can be; beginnings of long requests; whole
requests that are refused; messages in fragments of one byte; floods of pings of the
protocol; messages of the most containers; floods of short messages; members pages that are never read."""

Attack = Callable[[Measured, Event], None]


def measure(rounds: int) -> report.Result:
    """Run it."""
    figures, targets = [], []
    for name, attack in ATTACKS.items():
        idle: list[float] = []
        under: list[float] = []
        pinned: list[float] = []
        for _ in range(rounds):
            with server(*DEFAULT_LIMITS) as node, _client(node) as client:
                idle.append(_p99_ms(client, IDLE_S))
                with _attacking(attack, node) as memory:
                    under.append(_p99_ms(client, ATTACK_S))
                pinned.append(max(memory()) / MIB)
        figures.append(report.per_round(f"{name}: p99 idle", "ms", idle))
        figures.append(report.per_round(f"{name}: p99 attacked", "ms", under))
        figures.append(report.per_round(f"{name}: pinned", "MiB", pinned))
        targets.append(report.Target(figure=f"{name}: p99 attacked", bound="at most", limit=P99_MS))
        targets.append(report.Target(figure=f"{name}: pinned", bound="at most", limit=PINNED_MIB))
    return report.Result(name="attack", what=WHAT, figures=figures, targets=targets)


@contextmanager
def _client(node: Measured) -> Iterator[Connection]:
    client = Connection(node)
    client.upgrade(node, "bystander")
    client.send(b'{"t":"join","id":1,"room":"lobby"}')
    client.receive_marked(b'"t":"sync"')
    try:
        yield client
    finally:
        client.close()


def _p99_ms(client: Connection, duration_s: float) -> float:
    """Return the 99th percentile of how long answers took."""
    took_ms = []
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        begun_s = time.perf_counter()
        client.send(b'{"t":"ping","id":7}')
        client.receive_marked(b'"t":"pong"')
        took_ms.append((time.perf_counter() - begun_s) * 1_000)
        time.sleep(PAUSE_S)
    return quantiles(took_ms, n=100)[98]


@contextmanager
def _attacking(attack: Attack, node: ServerProcess) -> Iterator[Callable[[], list[float]]]:
    """Attack from a process; yield what returns the growth of the node's memory, a sample a quarter of a second."""
    over = SPAWN.Event()
    before = node.memory().anonymous
    grown: list[float] = [0.0]

    def watch() -> None:
        while not over.wait(0.25):
            grown.append(node.memory().anonymous - before)

    watching, attacking = threading.Thread(target=watch), SPAWN.Process(target=attack, args=(node, over))
    attacking.start()  # first: a process with threads is not to be forked
    watching.start()
    try:
        yield lambda: grown
    finally:
        over.set()
        attacking.join()
        watching.join()


def _open(node: Measured, data: bytes = b"") -> socket.socket:
    """Return a socket from the attacker's address that has sent something."""
    sock = socket.socket()
    sock.bind((ATTACKER, 0))
    sock.settimeout(5)
    sock.connect((node.host, node.port))
    if data:
        sock.sendall(data)
    return sock


def _keep_opening(node: Measured, over: Event, data: bytes, at_once: int) -> None:
    """Open sockets again and again; so many are kept open by this side."""
    kept: list[socket.socket] = []
    try:
        while not over.is_set():
            with contextlib.suppress(OSError):
                kept.append(_open(node, data))
            if len(kept) > at_once:
                kept.pop(0).close()
    finally:
        for sock in kept:
            sock.close()


def _keep_sending(
    node: Measured, over: Event, data: bytes, first: bytes = b"", *, reads: bool = True
) -> None:
    """Send the same from many connections, and come back where one is closed."""
    kept: dict[int, socket.socket] = {}
    try:
        while not over.is_set():
            for number in range(FLOOD_CONNECTIONS):
                if over.is_set():
                    return
                try:
                    if number not in kept:
                        kept[number] = _open(node, UPGRADE + b"\r\n")
                        kept[number].recv(65_536)
                        kept[number].sendall(first)
                        kept[number].setblocking(False)
                    kept[number].send(data)
                    while reads and kept[number].recv(65_536):
                        pass
                except BlockingIOError:
                    continue
                except OSError:
                    if number in kept:
                        kept.pop(number).close()
            time.sleep(0.001)
    finally:
        for sock in kept.values():
            sock.close()


def _half_open(node: Measured, over: Event) -> None:
    _keep_opening(node, over, b"", 5_000)


def _long_heads(node: Measured, over: Event) -> None:
    _keep_opening(node, over, UPGRADE + (b"X: " + b"y" * 4_000 + b"\r\n") * 3, 2_000)


def _refused(node: Measured, over: Event) -> None:
    _keep_opening(node, over, UPGRADE + b"\r\n", 2_000)


def _fragments(node: Measured, over: Event) -> None:
    payload = b'{"t":"ping"}'.ljust(600)
    frames = [bytes((0x01, 0x81)) + bytes(4) + payload[:1]]
    frames += [bytes((0x00, 0x81)) + bytes(4) + payload[n : n + 1] for n in range(1, 599)]
    frames.append(bytes((0x80, 0x81)) + bytes(4) + payload[-1:])
    _keep_sending(node, over, b"".join(frames))


def _protocol_pings(node: Measured, over: Event) -> None:
    _keep_sending(node, over, client_frame(b"", 0x9) * 500)


def _containers(node: Measured, over: Event) -> None:
    message = b'{"t":"publish","room":"attack","data":[' + b"[]," * 4_000 + b"[]]}"
    join = client_frame(b'{"t":"join","id":1,"room":"attack"}')
    _keep_sending(node, over, client_frame(message), join)


def _short_messages(node: Measured, over: Event) -> None:
    _keep_sending(node, over, client_frame(b'{"t":"ping","id":1}') * 500)


def _unread_pages(node: Measured, over: Event) -> None:
    join = client_frame(b'{"t":"join","id":1,"room":"attack","state":{"x":"%s"}}' % (b"y" * 4_000))
    page = client_frame(b'{"t":"members","id":1,"room":"attack","limit":1000}')
    _keep_sending(node, over, page * 20, join, reads=False)


ATTACKS: Final[dict[str, Attack]] = {
    "half-open sockets": _half_open,
    "beginnings of requests": _long_heads,
    "refused requests": _refused,
    "fragments": _fragments,
    "protocol pings": _protocol_pings,
    "containers": _containers,
    "short messages": _short_messages,
    "unread pages": _unread_pages,
}
DEFAULT_LIMITS: Final = (
    "--throttle.connect=60/60s",
    "--throttle.resume=600/60s",
    "--throttle.messages=50/1s burst 100",
    "--throttle.concurrent_per_ip=200",
)
"""What `processes.server` lifts for other measurements."""
