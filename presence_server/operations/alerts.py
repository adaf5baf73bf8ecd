"""The alerts of a node: what is degraded, in words for an operator. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, get_args

from presence_server.operations.history import Totals
from presence_server.registry.figures import TEXT_MAX, Alert, Level

LAG_WARNING_MS: Final = 100
LAG_CRITICAL_MS: Final = 1_000
CONNECTIONS_WARNING_RATIO: Final = 0.9
"""Of `server.max_connections`."""
UNSENT_WARNING_RATIO: Final = 0.5
"""Of `limits.outbox_total_bytes`."""


class Condition(NamedTuple):
    """The condition of a node.

    `problems` are the checks of `/readyz` that fail, but for draining, by name; `minute_ago` is what had been counted a
    minute ago.
    """

    node: str
    problems: Mapping[str, str]
    draining: bool
    isolated: bool
    rejoining: bool
    limiter_away: bool
    on_error: str
    is_overloaded: bool
    policy_problem: str
    lag_ms: int
    connections: int
    connections_max: int
    unsent_bytes: int
    unsent_max: int
    minute_ago: Totals
    now: Totals


def alerts(condition: Condition) -> list[Alert]:
    """Return what is degraded, the worst first; the node is the subject of each text."""
    order = get_args(Level)
    found = [Alert(level, kind, text[:TEXT_MAX], condition.node) for level, kind, text in _found(condition)]
    return sorted(found, key=lambda alert: order.index(alert.level))


def _found(c: Condition) -> Iterator[tuple[Level, str, str]]:
    yield from _store(c)
    yield from _limiter(c)
    yield from _load(c)
    if c.draining:
        yield "notice", "draining", "is shutting down: it serves the clients that it has, and takes no others"
    slow_closes = c.now.slow_closes - c.minute_ago.slow_closes
    if slow_closes:
        yield "warning", "slow_readers", f"closed {slow_closes} slow clients (4102) within a minute"
    faults = c.now.faults - c.minute_ago.faults
    if faults:
        yield "warning", "faults", f"had {faults} callbacks that failed within a minute: see the log"
    refused = c.now.store_refused_calls - c.minute_ago.store_refused_calls
    if refused:
        yield (
            "warning",
            "refused_calls",
            f"was refused {refused} calls by the store within a minute: see the log",
        )


def _store(c: Condition) -> Iterator[tuple[Level, str, str]]:
    if c.isolated:
        why = "; ".join(text for _, text in sorted(c.problems.items()))
        text = "has no contact with the store and serves its own clients from memory"
        yield "critical", "isolated", text + (f": {why}" if why else "")
    elif c.rejoining:
        yield "warning", "rejoining", "is back in contact with the store and enters its members again"
    else:
        for name, text in sorted(c.problems.items()):
            yield "warning", "not_ready", f"is not ready: {name}: {text}"


def _limiter(c: Condition) -> Iterator[tuple[Level, str, str]]:
    undecided = c.now.undecided - c.minute_ago.undecided
    if c.limiter_away:
        text = f'does not ask the limiter\'s store: throttle.on_error = "{c.on_error}" decides'
        yield "warning", "limiter_away", text
    elif undecided:
        text = (
            f"made {undecided} decisions of the limiter without its store (throttle.on_error) within a minute"
        )
        yield "warning", "limiter_late", text
    if c.policy_problem:
        yield "warning", "policy", f"does not understand the limiter's policy: {c.policy_problem}"


def _load(c: Condition) -> Iterator[tuple[Level, str, str]]:
    if c.is_overloaded:
        shed = c.now.shed - c.minute_ago.shed
        text = f"is overloaded and refuses newcomers: it shed {shed} handshakes and signals within a minute"
        yield "critical", "overloaded", text
    if c.lag_ms >= LAG_WARNING_MS:
        level: Level = "critical" if c.lag_ms >= LAG_CRITICAL_MS else "warning"
        yield level, "lag", f"has an event loop that was {c.lag_ms} ms late"
    if c.connections >= CONNECTIONS_WARNING_RATIO * c.connections_max:
        yield "warning", "full", f"has {c.connections} of at most {c.connections_max} connections"
    if c.unsent_bytes >= UNSENT_WARNING_RATIO * c.unsent_max:
        mib, mib_max = c.unsent_bytes >> 20, c.unsent_max >> 20
        yield "warning", "unsent", f"keeps {mib} of at most {mib_max} MiB for clients that do not read"
