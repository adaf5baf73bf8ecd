"""The metrics: every family with its meaning, and where its number comes from.

Labels have few values: types, codes, reasons, rules; never a room, a user or an address.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from presence_server import __version__, faults
from presence_server.counters import Counts, Histogram
from presence_server.garbage import GarbageCollector
from presence_server.redis_io import store_errors

if TYPE_CHECKING:
    from presence_server.core import NodeCore
    from presence_server.edge.listener import Listener

Kind = Literal["counter", "gauge", "histogram", "info"]
Samples = Iterable[tuple[tuple[str, ...], Any]]


class MeasuredNode(Protocol):
    """The parts of a node that are measured, each with its own numbers."""

    core: "NodeCore"
    listener: "Listener"
    garbage: GarbageCollector
    lags: Histogram
    api_calls: Counts[tuple[str, str, int]]
    """Counts by method, path and status."""

    def checks(self) -> dict[str, str]:
        """Return what is wrong with each thing that the node needs; "": nothing."""


class Worker(Protocol):
    """One of several workers."""

    number: int
    restarts: int

    @property
    def up(self) -> bool:
        """Whether it serves, as far as its process goes."""


class Store(Protocol):
    """The embedded store."""

    restarts: int


class MeasuredSupervisor(Protocol):
    """The numbers of several workers beside those of their nodes."""

    @property
    def keeper(self) -> Store:
        """Return what runs the embedded store."""

    @property
    def workers(self) -> Sequence[Worker]:
        """Return all workers."""

    @property
    def store_up(self) -> float | None:
        """Whether the embedded store answers; None: there is none."""


class Family(NamedTuple):
    """One metric. `read(node)` yields label values with a number each, or one histogram.

    A counter's name is without its `_total`, as the exposition adds it.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Any], Samples]
    """The function that reads the family from a `MeasuredNode` or a `MeasuredSupervisor`."""

    @property
    def exposed(self) -> str:
        """The name as a query has it."""
        return {"counter": f"{self.name}_total", "info": f"{self.name}_info"}.get(self.kind, self.name)


def one(read: Callable[[MeasuredNode], Any]) -> Callable[[MeasuredNode], Samples]:
    """Yield a single number."""
    return lambda node: [((), read(node))]


def each(read: Callable[[MeasuredNode], Mapping[Any, float]]) -> Callable[[MeasuredNode], Samples]:
    """Yield a number for each key."""
    return lambda node: [((str(key),), value) for key, value in sorted(read(node).items(), key=str)]


def _by_type(counted: Mapping[type, int]) -> dict[str, int]:
    """Name types of messages as the wire does."""
    return {str(kind.__struct_config__.tag): number for kind, number in counted.items()}  # type: ignore[attr-defined]  # msgspec's


def _decisions(node: MeasuredNode) -> Samples:
    for (rule, allowed, would_deny, source), number in sorted(node.core.decisions.items()):
        outcome = ("would_deny" if would_deny else "allowed") if allowed else "denied"
        yield (rule, outcome, source), number


def _redis(read: Callable[[Mapping[str, Any]], float | None]) -> Callable[[MeasuredNode], Samples]:
    """Return a reader of a figure of the last INFO, by server; a server that has not answered has none."""

    def samples(node: MeasuredNode) -> Samples:
        for server, info in sorted(node.core.backend.health.items()):
            number = read(info)
            if number is not None:
                yield (server,), number

    return samples


def _shared(read: Callable[[Any], Any]) -> Callable[[MeasuredNode], Samples]:
    """Yield something of the contact with the shared store; nothing where there is none."""
    return lambda node: [((), read(node.core.backend))] if node.core.backend.shared else []


def _by_server(read: Callable[[Any], Mapping[str, Any]]) -> Callable[[MeasuredNode], Samples]:
    """Return a reader of a figure of the contact with each server of the shared store."""
    return lambda node: (
        (((server,), found) for server, found in sorted(read(node.core.backend).items()))
        if node.core.backend.shared
        else ()
    )


def _hit_rate(info: Mapping[str, Any]) -> float | None:
    hits, misses = float(info.get("keyspace_hits", 0)), float(info.get("keyspace_misses", 0))
    return hits / (hits + misses) if hits + misses else None


def _of(field: str) -> Callable[[MeasuredNode], Samples]:
    return _redis(lambda info: float(info[field]) if field in info else None)


FAMILIES: Final[tuple[Family, ...]] = (
    Family("presence_node", "info", "This node: its id, the software's version, whether it shares its rooms",
           ("node", "version", "shared"),
           lambda node: [((node.core.id, __version__, str(node.core.backend.shared).lower()), 1)]),
    Family("presence_uptime_seconds", "gauge", "Since the node began", (),
           one(lambda node: node.core.uptime_ms() / 1e3)),
    Family("presence_ready", "gauge", "Whether each check of `/readyz` is right: 1 or 0", ("check",),
           each(lambda node: {name: float(not wrong) for name, wrong in node.checks().items()})),
    Family("presence_connections", "gauge", "Clients of this node", (), one(lambda node: len(node.core.directory))),
    Family("presence_sockets", "gauge", "Sockets on the client port, those that shake hands or close too", (),
           one(lambda node: node.listener.sockets)),
    Family("presence_pending_sockets", "gauge",
           "Sockets that the node waits for: TLS handshakes, requests, the end of what was refused", (),
           one(lambda node: len(node.listener.pending))),
    Family("presence_pending_dropped", "counter", "Pending sockets dropped because there were too many", (),
           one(lambda node: node.listener.pending.dropped)),
    Family("presence_overload_level", "gauge", "What is shed: 0 nothing, 1 new handshakes, 2 signals, too", (),
           one(lambda node: int(node.listener.overload.sheds))),
    Family("presence_shed", "counter", "What was refused or dropped because of overload", ("what",),
           each(lambda node: {"handshakes": node.listener.overload.handshakes_shed,
                              "signals": node.listener.overload.signals_shed})),
    Family("presence_rooms", "gauge", "Rooms that somebody here watches", (),
           one(lambda node: len(node.core.rooms.views))),
    Family("presence_members", "gauge", "Members of rooms whose connections are on this node", (),
           one(lambda node: node.core.rooms.views.members_here)),
    Family("presence_handshakes", "counter", "WebSocket handshakes, by the HTTP status of the answer", ("status",),
           each(lambda node: node.listener.handshakes)),
    Family("presence_handshake_seconds", "histogram", "From a connection's arrival to its welcome", (),
           one(lambda node: node.listener.handshake_seconds)),
    Family("presence_closes", "counter",
           "Connections that ended, by close code; 1006: without one; other: a code that the client made up", ("code",),
           each(lambda node: node.listener.closes)),
    Family("presence_messages_received", "counter", "Messages from clients, by type", ("type",),
           each(lambda node: _by_type(node.core.directory.received))),
    Family("presence_errors_sent", "counter", "Requests refused, by error code", ("code",),
           each(lambda node: node.core.directory.refusals)),
    Family("presence_message_handling_seconds", "histogram",
           "From a message's arrival until it was handled, not waiting for the store; every 8th is timed", (),
           one(lambda node: node.core.directory.handling)),
    Family("presence_events", "counter", "What rooms were told, each once however many watch, by type", ("type",),
           each(lambda node: _by_type(node.core.hub.events))),
    Family("presence_deliveries", "counter", "Events times the connections that were told of them", (),
           one(lambda node: node.core.hub.deliveries)),
    Family("presence_conflations", "counter", "Connections that fell behind and are told a state for many events", (),
           one(lambda node: node.core.hub.conflations)),
    Family("presence_slow_closes", "counter", "Connections closed with 4102, too slow", (),
           one(lambda node: node.core.hub.too_slow_closes)),
    Family("presence_unsent_bytes", "gauge", "Bytes that wait for all connections; see `limits.outbox_total_bytes`", (),
           one(lambda node: node.core.hub.unsent_bytes)),
    Family("presence_received_bytes", "counter", "Bytes from clients", (), one(lambda node: node.listener.bytes_in)),
    Family("presence_sent_bytes", "counter", "Bytes to clients", (), one(lambda node: node.listener.bytes_out)),
    Family("presence_leaves", "counter", "Members gone from rooms that are watched here, by reason", ("reason",),
           each(lambda node: node.core.rooms.views.leaves)),
    Family("presence_snapshots", "counter",
           "Rooms read whole: for a first watcher here, or because a change was missed", (),
           one(lambda node: node.core.rooms.views.snapshots)),
    Family("presence_tick_seconds", "histogram", "How long a tick took: all news of a turn of the loop written", (),
           one(lambda node: node.core.ticker.seconds)),
    Family("presence_loop_lag_seconds", "histogram", "How late the event loop was with what was due", (),
           one(lambda node: node.lags)),
    Family("presence_gc_pause_seconds", "histogram",
           "How long collections of cyclic garbage stopped the loop for, by generation", ("generation",),
           lambda node: [((str(number),), seconds) for number, seconds in node.garbage.seconds.items()]),
    Family("presence_gc_longest_pause_seconds", "gauge", "The longest of them since the node began", (),
           one(lambda node: node.garbage.longest_s)),
    Family("presence_throttle_decisions", "counter",
           "Decisions of the limiter, by rule, outcome (allowed, denied, would_deny) and who decided",
           ("rule", "outcome", "source"), _decisions),
    Family("presence_throttle_late_decisions", "counter",
           "Decisions that took longer than the deadline: because of the store, and made without it; or of this process"
           " itself (self), and made by the store all the same", ("by",),
           each(lambda node: node.core.late_decisions)),
    Family("presence_throttle_breaker_open", "gauge", "Whether the limiter's store is not asked at present", (),
           one(lambda node: float(node.core.limiter.broken))),
    Family("presence_throttle_policy_version", "gauge",
           "The version of the policy of rules and lists in force here; 0: there is none", (),
           one(lambda node: node.core.backend.policy.version)),
    Family("presence_throttle_policy_problems", "gauge",
           "Whether some of the stored policy is not understood here, and out of force", (),
           one(lambda node: float(bool(node.core.backend.policy.problem)))),
    Family("presence_throttle_list_entries", "gauge", "Entries of the allow and deny lists in force here", (),
           one(lambda node: len(node.core.limiter.lists))),
    Family("presence_throttle_nodes_known", "gauge",
           "Nodes that share the limits, as the store last said; divides them while it is away (`share`)", (),
           one(lambda node: node.core.nodes_known)),
    Family("presence_throttle_logged_decisions", "gauge", "Decisions kept for dry runs", (),
           one(lambda node: len(node.core.limiter.log or ()))),
    Family("presence_api_requests", "counter", "Calls of the internal port", ("method", "path", "status"),
           lambda node: [((*map(str, key),), number) for key, number in sorted(node.api_calls.items())]),
    Family("presence_redis_contact", "gauge", "Whether this node writes to the store and hears itself on it", (),
           _shared(lambda backend: float(not backend.is_isolated()))),
    Family("presence_redis_losses", "counter", "How often contact with the store was lost", (),
           _shared(lambda backend: backend.losses)),
    Family("presence_callback_faults", "counter", "Callbacks that failed, by the boundary that contained the fault",
           ("boundary",), each(lambda node: dict(faults.counts))),
    Family("presence_redis_refused_calls", "counter",
           "Calls that the store refused although it was in reach, by script or command", ("call",),
           each(lambda node: dict(store_errors.counts))),
    Family("presence_redis_pipeline_seconds", "histogram", "How long pipelines of presence took", ("server",),
           _by_server(lambda backend: backend.pipeline_seconds)),
    Family("presence_redis_pipeline_failures", "counter", "Pipelines of presence that failed", (),
           _shared(lambda backend: backend.pipeline_failures)),
    Family("presence_pubsub_round_trip_seconds", "histogram",
           "From a write to the store until its message was heard, once a second", ("server",),
           _by_server(lambda backend: backend.round_trips)),
    Family("presence_redis_memory_used_bytes", "gauge", "INFO used_memory", ("server",), _of("used_memory")),
    Family("presence_redis_memory_fragmentation_ratio", "gauge", "INFO mem_fragmentation_ratio", ("server",),
           _of("mem_fragmentation_ratio")),
    Family("presence_redis_keyspace_hit_ratio", "gauge", "Hits of all lookups since the store began", ("server",),
           _redis(_hit_rate)),
    Family("presence_redis_rejected_connections", "counter", "INFO rejected_connections", ("server",),
           _of("rejected_connections")),
    Family("presence_redis_evicted_keys", "counter", "INFO evicted_keys: more than 0 means that presence is lost",
           ("server",), _of("evicted_keys")),
    Family("presence_redis_connected_clients", "gauge", "INFO connected_clients", ("server",),
           _of("connected_clients")),
)  # fmt: skip
"""Every metric of this server, in the order of the reference. Those of the process and of Python come beside them."""


def _embedded(read: Callable[[MeasuredSupervisor], Any]) -> Callable[[MeasuredSupervisor], Samples]:
    """Yield something of the embedded store; nothing where there is none."""
    return lambda supervisor: [] if supervisor.store_up is None else [((), read(supervisor))]


SUPERVISOR_FAMILIES: Final[tuple[Family, ...]] = (
    Family("presence_worker_up", "gauge", "Whether the worker has a process that is ready", ("worker",),
           lambda supervisor: [((str(worker.number),), float(worker.up)) for worker in supervisor.workers]),
    Family("presence_worker_restarts", "counter", "How often the worker was started again", ("worker",),
           lambda supervisor: [((str(worker.number),), worker.restarts) for worker in supervisor.workers]),
    Family("presence_embedded_store_up", "gauge", "Whether the embedded store runs and has answered", (),
           _embedded(lambda supervisor: supervisor.store_up)),
    Family("presence_embedded_store_restarts", "counter", "How often the embedded store was started again", (),
           _embedded(lambda supervisor: supervisor.keeper.restarts)),
)  # fmt: skip
"""The families that several workers have beside those of each node."""


class MetricsPage:
    """The page that Prometheus reads, of what `families` read from."""

    def __init__(
        self, measured: MeasuredNode | MeasuredSupervisor, families: Sequence[Family] = FAMILIES
    ) -> None:
        self._measured = measured
        self._families = families
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def render(self) -> tuple[bytes, str]:
        """Return the page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its samples of now."""
        for family in self._families:
            yield _metric(family, family.read(self._measured))

    def describe(self) -> list[Metric]:
        """Return nothing: names are not checked against other collectors' when this one is registered."""
        return []


def _metric(family: Family, samples: Samples) -> Metric:
    if family.kind == "histogram":
        metric = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
        for labels, value in samples:
            histogram: Histogram = value
            metric.add_metric(labels, buckets=histogram.cumulative(), sum_value=histogram.sum)
        return metric
    if family.kind == "info":
        info = InfoMetricFamily(family.name, family.meaning)
        for labels, _ in samples:
            info.add_metric((), dict(zip(family.labels, labels, strict=True)))
        return info
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    numbers = kind(family.name, family.meaning, labels=family.labels)
    for labels, value in samples:
        numbers.add_metric(labels, value)
    return numbers


def reference() -> str:
    """Return the reference page, Markdown."""
    return HEAD + _table(FAMILIES) + WORKERS + _table(SUPERVISOR_FAMILIES)


def _table(families: Iterable[Family]) -> str:
    rows = [
        f"| `{family.exposed}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels)} | "
        f"{family.meaning} |"
        for family in families
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"


HEAD: Final = """# Metrics

`GET /metrics` on the internal port, in the format of Prometheus. This page is made from the code:
`python -m presence_server.metrics > docs/metrics.md`.

Units are in the names: seconds, bytes. Labels have few values; no room, no user and no address is one. The `INFO`
figures are of the store as this node last asked it, when it was scraped; they are there with a shared store only.
`server` is the address of a primary of a Cluster; of any other store it is empty, which Prometheus takes for no label.
Beside these come `process_…` and `python_…`, those of prometheus-client.

[deploy/prometheus/alerts.yml](../deploy/prometheus/alerts.yml) has rules for alerts, with what each means and what
to do; [deploy/grafana](../deploy/grafana/dashboards/presence.json) has a dashboard. How they are used:
[deploy.md](deploy.md#what-to-watch).

"""

WORKERS: Final = """
## With several workers

With `--workers` the page has the metrics of all workers, each with the label `worker` (1, 2, …); sum over it for the
node, as in `sum without (worker) (presence_connections)`. What the store says of itself is there once a worker. The
label of the supervisor's own `process_…` and `python_…` is `supervisor`. A worker that does not answer within two
seconds is left out. Beside them:

"""

if __name__ == "__main__":
    sys.stdout.write(reference())
