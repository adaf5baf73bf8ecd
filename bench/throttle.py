"""Decisions of the limiter as a library, against other limiters and against the store itself."""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import trustme

from bench import report
from bench.callers import Callers, callers, crowd, together
from bench.peers.callers import Timed
from bench.peers.libraries import RULES
from bench.processes import MEASURED_CORE, peer
from bench.store import Store, store

OURS: Final = "this limiter"
LIBRARIES: Final = {
    OURS: "presence-server",
    "limits": "limits",
    "throttled-py": "throttled-py",
    "pyrate-limiter": "pyrate-limiter",
    "rate-limiter-flexible": "flexible:",
    "rate-limiter-flexible, auto-pipelining": "flexible:pipelined",
}
"""What each is in the figures, and among the peers."""
CALLERS: Final = (1, 16, 64, 256)
MOST: Final = CALLERS[-1]
PROCESSES: Final = 4
CALLERS_EACH: Final = 64
SATURATED_S: Final = 0.5
RATE: Final = 5_000
PACED_S: Final = 1
CALLS: Final = 20_000
STALLS: Final = 3
DISTANCES_MS: Final = (1, 5, 20, 40)
FAR_CALLERS: Final = 64
WHAT: Final = f"""\
Callers, each asking for the next decision when it has the last, over 1,000 keys that are never refused,
fixed windows, for {SATURATED_S} s a round: this limiter, `limits`, `throttled-py` and `pyrate-limiter` with
their asyncio Redis stores (redis-py; pyrate-limiter without its cleaning up), `rate-limiter-flexible` with
ioredis (Node.js) as it is, and with its automatic pipelining, which is off unless asked for. One process
with {", ".join(map(str, CALLERS))} callers, then {PROCESSES} processes with {CALLERS_EACH} callers each, whose
p99 is that of the slowest; a process has one library. All callers have one core, the store (Valkey on a unix
socket) the other. CPU is a process's CPU clock over its decisions; the store's with {MOST} callers. Then
{RATE:,} decisions a second, each timed, beside as many PINGs through redis-py. Then {CALLS:,} calls one after
the other without a store. Then the store's process is stopped, {STALLS} times a round, and one decision asked
for with the default deadline of 50 ms. Then {FAR_CALLERS} callers, with that deadline, behind a proxy that
delays the store's answers, and behind one that speaks TLS with a certificate of the measurement's own; both
are on the store's core."""

Found = defaultdict[str, list[float]]


def measure(rounds: int) -> report.Result:
    """Run it."""
    found: Found = defaultdict(list)
    with ExitStack() as stack:
        shared = stack.enter_context(store())
        os.sched_setaffinity(shared.pid, {MEASURED_CORE})
        bench = _Bench(stack, shared)
        for number in range(rounds + 1):
            measured = bench.measure_round()
            if number:
                for name, value in measured.items():
                    found[name].append(value)
    return report.Result(name="throttle", what=WHAT, figures=_figures(found), targets=_targets())


class _Saturated(NamedTuple):
    """What was found, and the CPU for each decision, of the callers and of the store."""

    timed: Timed
    callers_us: float
    store_us: float


class _Bench:
    """Every process that takes part."""

    def __init__(self, stack: ExitStack, shared: Store) -> None:
        self._shared = shared
        self._store_us: dict[str, float] = {}
        """For each decision of the peers, in this round."""
        start = stack.enter_context
        self._crowds = {name: start(crowd(library, shared, PROCESSES)) for name, library in LIBRARIES.items()}
        self._by_algorithm = {
            algorithm: start(callers(f"presence-server:{algorithm}", shared.url)) for algorithm in RULES
        }
        self._ping = start(callers("ping", shared.url))
        self._alone = {
            OURS: start(callers("presence-server:alone", "")),
            "limits": start(callers("limits:alone", "")),
        }
        self._by_default = start(callers("presence-server:default", shared.url))
        self._far: dict[str, Callers] = {}
        for distance_ms in DISTANCES_MS:
            proxy = start(peer("distance", shared.path, distance_ms))
            url = f"redis://{proxy.host}:{proxy.port}"
            self._far[f"{distance_ms} ms away"] = start(callers("presence-server:default", url))
        certificate, authority = start(_certificate())
        proxy = start(peer("distance", shared.path, 0, certificate))
        url = f"rediss://{proxy.host}:{proxy.port}?ssl_ca_certs={authority}"
        self._far["over TLS"] = start(callers("presence-server:default", url))

    def measure_round(self) -> dict[str, float]:
        """Return every figure once."""
        found: dict[str, float] = {}
        self._store_us.clear()
        for number in CALLERS:
            for name, processes in self._crowds.items():
                self._decisions(found, f"{number} caller{'s'[: number > 1]}", name, processes[:1], number)
        load = f"{PROCESSES} processes of {CALLERS_EACH} callers"
        for name, processes in self._crowds.items():
            self._decisions(found, load, name, processes, CALLERS_EACH)
        for algorithm, process in self._by_algorithm.items():
            found[f"store's CPU, {algorithm}, {OURS}"] = self._saturated([process], MOST).store_us
        found |= self._store_us
        ours = self._crowds[OURS][0]
        found[f"p99 at {RATE:,}/s, decision"] = ours.timed("pace", RATE, PACED_S).p99_us
        found[f"p99 at {RATE:,}/s, PING"] = self._ping.timed("pace", RATE, PACED_S).p99_us
        for name, process in self._alone.items():
            found[f"in-process, {name}"] = process.ask("repeat", CALLS)
        found["held up by a frozen store"] = median(self._held_up_ms() for _ in range(STALLS))
        for name, process in self._far.items():
            process.ask("settle")
            timed = process.timed("saturate", FAR_CALLERS, SATURATED_S)
            found[f"{name}: p50"] = timed.p50_us / 1_000
            found[f"{name}: decided by the store"] = timed.from_store * 100
        return found

    def _decisions(
        self, found: dict[str, float], load: str, name: str, processes: list[Callers], number: int
    ) -> None:
        saturated = self._saturated(processes, number)
        found[f"{load}: {name}"] = saturated.timed.rate / 1_000
        found[f"{load}: p99, {name}"] = saturated.timed.p99_us
        if number in {CALLERS[0], MOST}:
            found[f"{load}: callers' CPU, {name}"] = saturated.callers_us
        if number == MOST and name != OURS:
            self._store_us[f"store's CPU, fixed, {name}"] = saturated.store_us

    def _saturated(self, processes: list[Callers], number: int) -> "_Saturated":
        sides: list[Callers | Store] = [self._shared, *processes]
        before_ns = [side.cpu_ns() for side in sides]
        timed = together(processes, "saturate", number, SATURATED_S)
        store_ns, *callers_ns = [side.cpu_ns() - ns for side, ns in zip(sides, before_ns, strict=True)]
        decisions = timed.rate * SATURATED_S
        return _Saturated(timed, sum(callers_ns) / 1_000 / decisions, store_ns / 1_000 / decisions)

    def _held_up_ms(self) -> float:
        """Return how long a decision takes while the store stands still."""
        self._by_default.ask("settle")
        with self._shared.frozen():
            held_up_us: float = self._by_default.ask("repeat", 1)
        self._by_default.ask("settle")
        return held_up_us / 1_000


def _figures(found: Found) -> list[report.Figure]:
    figures = [report.per_round(name, _unit(name), rounds) for name, rounds in found.items()]
    loads = [name.removesuffix(f": {OURS}") for name in found if name.endswith(f": {OURS}")]
    for load in loads:
        for name in LIBRARIES:
            if name != OURS:
                ours, theirs = found[f"{load}: {OURS}"], found[f"{load}: {name}"]
                figures.append(report.ratio(f"{load}: {OURS} / {name}", ours, theirs))
    above, below = found[f"p99 at {RATE:,}/s, decision"], found[f"p99 at {RATE:,}/s, PING"]
    figures.append(report.ratio(f"p99 at {RATE:,}/s, decision / PING", above, below))
    above, below = found[f"in-process, {OURS}"], found["in-process, limits"]
    figures.append(report.ratio(f"in-process, {OURS} / limits", above, below))
    return figures


def _unit(name: str) -> str:
    if name.endswith("decided by the store"):
        return "%"
    if name.startswith("held up") or name.endswith(": p50"):
        return "ms"
    if "p99" in name or "CPU" in name or name.startswith("in-process"):
        return "µs"
    return "thousand/s"


def _targets() -> list[report.Target]:
    def at_least(figure: str, limit: float) -> report.Target:
        return report.Target(figure=figure, bound="at least", limit=limit)

    def at_most(figure: str, limit: float) -> report.Target:
        return report.Target(figure=figure, bound="at most", limit=limit)

    return [
        at_least(f"1 caller: {OURS} / limits", 1),
        at_least(f"1 caller: {OURS} / throttled-py", 1),
        at_least(f"{MOST} callers: {OURS}", 100),
        at_least(f"{MOST} callers: {OURS} / limits", 8),
        at_least(f"{MOST} callers: {OURS} / throttled-py", 8),
        at_least(f"{MOST} callers: {OURS} / rate-limiter-flexible", 2),
        at_least(f"{MOST} callers: {OURS} / rate-limiter-flexible, auto-pipelining", 2),
        at_most(f"p99 at {RATE:,}/s, decision / PING", 3),
        at_most(f"in-process, {OURS}", 2),
        at_most(f"in-process, {OURS} / limits", 1),
        at_most("held up by a frozen store", 55),
        *(at_least(f"{ms} ms away: decided by the store", 100) for ms in DISTANCES_MS),
        at_least("over TLS: decided by the store", 100),
    ]


@contextmanager
def _certificate() -> Iterator[tuple[str, str]]:
    """Make a certificate for loopback; the names of its file and of its authority's."""
    authority = trustme.CA()
    with TemporaryDirectory(prefix="presence-") as place:
        certificate, trusted = Path(place, "certificate"), Path(place, "authority")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        authority.cert_pem.write_to_path(trusted)
        yield str(certificate), str(trusted)
