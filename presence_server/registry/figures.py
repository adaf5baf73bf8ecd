"""The figures of a node: how it is and what it does, as it publishes them every two seconds for operators.

They have bounds: `ROOMS_MAX` rooms, `STEPS_MAX` steps, one decision rate for each outcome and source.
"""

from typing import Final, Literal

import msgspec

STEP_MS: Final = 2_000
"""A node takes its figures once in this time, by the store's clock, so that the steps of all nodes are the same."""
STEPS_MAX: Final = 150
"""Steps that a node remembers: five minutes."""
ROOMS_MAX: Final = 20
"""Rooms that a node names."""
TEXT_MAX: Final = 300
"""Characters of an alert."""
KEPT_MS: Final = 5 * STEP_MS
"""The store keeps the last figures of a node for this long."""

Level = Literal["critical", "warning", "notice"]
NodeState = Literal["serving", "rejoining", "isolated", "draining"]


class Alert(msgspec.Struct, frozen=True):
    """Something that an operator should know. `kind` is a fixed word; `node` is empty where it concerns no one node."""

    level: Level
    kind: str
    text: str
    node: str = ""


class Rates(msgspec.Struct, frozen=True):
    """Events a second, as the mean of the last ten seconds.

    Handshakes that succeeded, connections that ended, messages from clients, deliveries to clients, and decisions of
    the limiter.
    """

    connects: float = 0.0
    closes: float = 0.0
    received: float = 0.0
    deliveries: float = 0.0
    allowed: float = 0.0
    denied: float = 0.0


class DecisionRate(msgspec.Struct, frozen=True):
    """Decisions of the limiter a second, by outcome (allowed, denied, would_deny) and who decided."""

    outcome: str
    source: str
    rate: float


class BusyRoom(msgspec.Struct, frozen=True):
    """A room with watchers on a node: how many members it has on all nodes, and how many users they are."""

    room: str
    count: int
    users: int


class History(msgspec.Struct, frozen=True):
    """The last steps of a node, the latest last; `until` is when that ended, ms since 1970.

    Counts of events, but for `connections`, as there were at the end of a step, and `lag_ms`, the worst in it.
    """

    until: int = 0
    connections: list[int] = []
    connects: list[int] = []
    received: list[int] = []
    deliveries: list[int] = []
    allowed: list[int] = []
    denied: list[int] = []
    lag_ms: list[int] = []


class NodeFigures(msgspec.Struct, frozen=True):
    """The figures of one node. Fields have defaults, so that nodes of other versions can read them.

    `at` is when they were taken, ms since 1970 by the store's clock. `cpu` is how many cores the process used (1.0: all
    of one), `round_trip_ms` how long a write to the store took until its message was heard, None without a store.
    """

    node: str
    at: int
    version: str = ""
    state: NodeState = "serving"
    policy: int = 0
    connections: int = 0
    connections_max: int = 0
    rooms: int = 0
    uptime_ms: int = 0
    lag_ms: int = 0
    cpu: float = 0.0
    memory_bytes: int = 0
    unsent_bytes: int = 0
    round_trip_ms: float | None = None
    rates: Rates = Rates()
    decisions: list[DecisionRate] = []
    busy_rooms: list[BusyRoom] = []
    alerts: list[Alert] = []
    history: History = History()
