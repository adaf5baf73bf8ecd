"""Takes the figures of a node every two seconds, from the counters that the metrics are made of."""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from presence_server import __version__, faults
from presence_server.faults import contain
from presence_server.metrics import MeasuredNode
from presence_server.operations.alerts import Condition, alerts
from presence_server.operations.busy_rooms import BusyRooms
from presence_server.operations.history import DENIED, NodeHistory, Totals
from presence_server.redis_io import store_errors
from presence_server.registry.figures import STEP_MS, NodeFigures, NodeState
from presence_server.shutdown import CHECK_DRAINING

STATM: Final = Path("/proc/self/statm")
WITHOUT_STORE: Final = frozenset(("local", "open", "closed", "share"))
"""Sources of decisions that the store has not made."""


class Used(NamedTuple):
    """The processor time of this process at a moment of the monotonic clock."""

    cpu_s: float
    at_s: float


class Sampler:
    """Takes the figures of one node and publishes them on its board."""

    def __init__(self, node: MeasuredNode) -> None:
        self._node = node
        self._history = NodeHistory()
        self._busy_rooms = BusyRooms()
        self._lag_ms = 0
        """The worst lag since the last sample."""
        self._used = Used(time.process_time(), time.monotonic())
        self._round_trips = (0, 0.0)

    def note_lag(self, lag_s: float) -> None:
        """Note how late the event loop was."""
        self._lag_ms = max(self._lag_ms, round(lag_s * 1_000))

    async def run(self) -> None:
        """Publish the figures at the end of each step, for ever."""
        clock = self._node.core.clock
        while True:
            contain("figures", self.publish)
            await anyio.sleep((STEP_MS - clock.wall_ms() % STEP_MS) / 1_000)

    def publish(self) -> None:
        """Take the figures of now, and publish them."""
        core = self._node.core
        used = Used(time.process_time(), time.monotonic())
        core.backend.figures_board.publish(self.take(core.clock.wall_ms(), used))

    def take(self, wall_ms: int, used: Used) -> NodeFigures:
        """Return the figures of now; `wall_ms` is now by the store's clock."""
        node, core = self._node, self._node.core
        lag_ms, self._lag_ms = self._lag_ms, 0
        self._history.record(wall_ms, self._totals(), len(core.directory), lag_ms)
        self._busy_rooms.scan_part(core.rooms.views)
        rates, decisions = self._history.rates()
        checks = node.checks()
        condition = self._condition(checks)
        return NodeFigures(
            core.id,
            wall_ms,
            version=__version__,
            state=_state(condition),
            policy=core.backend.policy.version,
            connections=condition.connections,
            connections_max=condition.connections_max,
            rooms=len(core.rooms.views),
            uptime_ms=core.uptime_ms(),
            lag_ms=condition.lag_ms,
            cpu=self._cpu(used),
            memory_bytes=_memory_bytes(),
            unsent_bytes=condition.unsent_bytes,
            round_trip_ms=self._round_trip_ms(),
            rates=rates,
            decisions=decisions,
            busy_rooms=self._busy_rooms.largest,
            alerts=alerts(condition),
            history=self._history.as_published(),
        )

    def _totals(self) -> Totals:
        node, core = self._node, self._node.core
        decisions: dict[tuple[str, str], int] = {}
        for (_, allowed, would_deny, source), number in core.decisions.items():
            outcome = ("would_deny" if would_deny else "allowed") if allowed else DENIED
            decisions[outcome, source] = decisions.get((outcome, source), 0) + number
        overload = node.listener.overload
        denied = sum(number for (outcome, _), number in decisions.items() if outcome == DENIED)
        without = sum(number for (_, source), number in decisions.items() if source in WITHOUT_STORE)
        return Totals(
            connects=node.listener.handshakes[101],
            closes=sum(node.listener.closes.values()),
            received=sum(core.directory.received.values()),
            deliveries=core.hub.deliveries,
            allowed=sum(decisions.values()) - denied,
            denied=denied,
            slow_closes=core.hub.too_slow_closes,
            shed=overload.handshakes_shed + overload.signals_shed,
            faults=sum(faults.counts.values()),
            store_refused_calls=sum(store_errors.counts.values()),
            undecided=without if core.limiter.store is not None else 0,
            decisions=decisions,
        )

    def _condition(self, checks: dict[str, str]) -> Condition:
        node, core = self._node, self._node.core
        settings = core.settings
        minute_ago, now = self._history.over_last_minute()
        return Condition(
            node=core.id,
            problems={name: text for name, text in checks.items() if text and name != CHECK_DRAINING},
            draining=bool(checks[CHECK_DRAINING]),
            isolated=core.backend.is_isolated(),
            rejoining=core.backend.is_rejoining(),
            limiter_away=core.limiter.broken,
            on_error=str(core.limiter.on_error),
            is_overloaded=bool(node.listener.overload.sheds),
            policy_problem=core.backend.policy.problem,
            lag_ms=self._history.worst_lag_ms(),
            connections=len(core.directory),
            connections_max=settings.server.max_connections,
            unsent_bytes=core.hub.unsent_bytes,
            unsent_max=settings.limits.outbox_total_bytes,
            minute_ago=minute_ago,
            now=now,
        )

    def _cpu(self, used: Used) -> float:
        """Return how many cores this process used since the last sample."""
        cpu_s, passed_s = used.cpu_s - self._used.cpu_s, used.at_s - self._used.at_s
        self._used = used
        return round(cpu_s / passed_s, 3) if passed_s > 0 else 0.0

    def _round_trip_ms(self) -> float | None:
        """Return how long a write took until it was heard, as the mean since the last sample; None: there was none."""
        found = self._node.core.backend.round_trips.values()
        count, seconds = sum(sum(each.counts) for each in found), sum(each.sum for each in found)
        count_before, seconds_before = self._round_trips
        self._round_trips = count, seconds
        if count <= count_before:
            return None
        return round((seconds - seconds_before) / (count - count_before) * 1_000, 2)


def _state(condition: Condition) -> NodeState:
    if condition.draining:
        return "draining"
    if condition.isolated:
        return "isolated"
    return "rejoining" if condition.rejoining else "serving"


def _memory_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell, the most that it ever was."""
    try:
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1_024
