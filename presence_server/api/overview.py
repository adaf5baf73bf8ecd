"""The overview of all nodes: the figures that each of them publishes, put together by the node that is asked."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple, get_args

import anyio
from msgspec.structs import astuple, replace

from presence_server.api import overview_schema as bodies
from presence_server.api.call_base import CallBase
from presence_server.api.dependencies import ApiDependencies
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.errors import StoreAwayError
from presence_server.registry.figures import (
    STEP_MS,
    Alert,
    DecisionRate,
    History,
    Level,
    NodeFigures,
    Rates,
)
from presence_server.registry.port import LostNode, NodeStatus
from presence_server.throttle.talkers import Report, merge_reports

ROUTES: Final = ApiRoutes()
COLUMNS: Final = History.__struct_fields__[1:]
SILENT_MS: Final = 3 * STEP_MS
"""A node that has published no figures for longer is silent."""
KEPT_S: Final = 0.9
"""The store is asked once in this time, however many dashboards are open."""
LOST_MS: Final = 300_000
"""The overview lists a lost node for this long."""
LOST_MAX: Final = 20
ROOMS_MAX: Final = 50
THROTTLED_MAX: Final = 50
LEVELS: Final = get_args(Level)


class NodeReports(NamedTuple):
    """The reports of the registry and of the other nodes; `is_complete` is false where the store is out of reach."""

    alive: list[NodeStatus]
    lost: list[LostNode]
    figures: list[NodeFigures]
    refused: list[Report]
    is_complete: bool


class Overview:
    """Reads the overview, once for all who ask for it at about the same time."""

    def __init__(self, node: ApiDependencies, clock_s: Callable[[], float] = monotonic) -> None:
        self._node = node
        self._clock_s = clock_s
        self._reading = anyio.Lock()
        self._read: tuple[float, bodies.OverviewAnswer] | None = None
        self._silent_since_s: dict[str, float] = {}
        """Since when nodes that are alive have published no figures, as far as this node has looked."""

    async def read(self) -> bodies.OverviewAnswer:
        """Return the overview of now, or of less than a second ago."""
        async with self._reading:
            if self._read is None or self._clock_s() - self._read[0] >= KEPT_S:
                answer = await self._new()
                self._read = self._clock_s(), answer
            return self._read[1]

    async def _new(self) -> bodies.OverviewAnswer:
        node = self._node
        own, at = node.figures_board.own, node.clock.wall_ms()
        now_s = self._clock_s()
        reports = await self._ask_others(own, at)
        fresh = [figures for figures in reports.figures if at - figures.at <= SILENT_MS]
        fresh += [] if own is None else [own]
        health = await node.examine_store()
        nodes = _nodes(reports.alive, fresh, self._silent(reports, fresh, now_s))
        servers = [_store(server, info) for server, info in sorted(health.items())]
        talkers = merge_reports(
            [*reports.refused, node.limiter.talkers.report("refused", now_s)], THROTTLED_MAX
        )
        return bodies.OverviewAnswer(
            node="" if own is None else own.node,
            at=at,
            shared=node.is_shared,
            complete=reports.is_complete,
            nodes=nodes,
            lost=[bodies.LostNodeOverview(each.node, max(0, at - each.heard)) for each in reports.lost],
            rates=_sum_of_rates(figures.rates for figures in fresh),
            decisions=_decisions(fresh),
            rooms=_rooms(fresh),
            throttled=bodies.Throttled(talkers.lines, talkers.over_ms),
            store=servers,
            alerts=_alerts(fresh, nodes, servers),
            step_ms=STEP_MS,
            history=sum_of_histories([figures.history for figures in fresh]),
        )

    async def _ask_others(self, own: NodeFigures | None, at: int) -> NodeReports:
        node = self._node
        try:
            alive = await node.registry.nodes()
            lost = await node.registry.lost_nodes(at - LOST_MS, LOST_MAX)
            names = [each.node for each in alive]
            figures = await node.figures_board.others(names)
            refused = [each.refused for each in await node.talkers_board.others(names)]
        except StoreAwayError:
            return NodeReports([] if own is None else [_status(own)], [], [], [], is_complete=False)
        return NodeReports(alive, lost, figures, refused, is_complete=True)

    def _silent(self, reports: NodeReports, fresh: Sequence[NodeFigures], now_s: float) -> set[str]:
        """Return the nodes that should have published figures; one that has just begun may not have come to it."""
        heard = {figures.node for figures in fresh}
        late = {figures.node for figures in reports.figures}
        unheard = {node.node: node.uptime_ms for node in reports.alive if node.node not in heard}
        self._silent_since_s = {node: self._silent_since_s.get(node, now_s) for node in unheard}
        return {
            node
            for node, uptime_ms in unheard.items()
            if node in late
            or uptime_ms >= SILENT_MS
            or (now_s - self._silent_since_s[node]) * 1_000 >= SILENT_MS
        }


class OverviewCalls(CallBase):
    """The call that answers with the overview."""

    def __init__(self, node: ApiDependencies) -> None:
        super().__init__(node)
        self._overview = Overview(node)

    @ROUTES.add_route(
        "GET",
        "/v1/overview",
        "Show all nodes, the largest rooms, the limiter and the store at a glance",
        {200: bodies.OverviewAnswer},
        query=bodies.OverviewQuery,
        quiet=True,
    )
    async def overview(self, asked: CheckedRequest) -> Reply:
        query: bodies.OverviewQuery = asked.query
        whole = await self._overview.read()
        throttled = replace(whole.throttled, top=whole.throttled.top[: query.throttled])
        history = whole.history if query.history else None
        answer = replace(whole, rooms=whole.rooms[: query.rooms], throttled=throttled, history=history)
        return Reply(200, answer, {"Cache-Control": "no-store"})


def sum_of_histories(histories: Sequence[History]) -> History:
    """Return what happened on all nodes together, up to the last step that each of them has published.

    The lag is the worst of any node, all other numbers are sums.
    """
    histories = [history for history in histories if history.connections]
    if not histories:
        return History()
    # One that has just woken up may be behind; it is left out until it has published the step of the others.
    latest = max(history.until for history in histories)
    histories = [history for history in histories if latest - history.until <= SILENT_MS]
    until = min(history.until for history in histories)
    longest = max(len(history.connections) - (history.until - until) // STEP_MS for history in histories)
    columns: list[list[list[int]]] = [[] for _ in COLUMNS]
    for history in histories:
        too_late = (history.until - until) // STEP_MS
        for padded, column in zip(columns, astuple(history)[1:], strict=True):
            counted = column[: len(column) - too_late]
            padded.append([0] * (longest - len(counted)) + counted)
    added = [
        list(map(max if name == "lag_ms" else sum, zip(*column, strict=True)))
        for name, column in zip(COLUMNS, columns, strict=True)
    ]
    return History(until, *added)


def _status(own: NodeFigures) -> NodeStatus:
    """Describe the node that is asked, where the registry is out of reach."""
    return NodeStatus(
        node=own.node,
        version=own.version,
        connections=own.connections,
        rooms=own.rooms,
        uptime_ms=own.uptime_ms,
        lag_ms=own.lag_ms,
        policy=own.policy,
    )


def _nodes(
    nodes: Sequence[NodeStatus], fresh: Iterable[NodeFigures], silent: Container[str]
) -> list[bodies.NodeOverview]:
    figures_of = {figures.node: figures for figures in fresh}
    return [_node(node, figures_of.get(node.node), is_silent=node.node in silent) for node in nodes]


def _node(node: NodeStatus, figures: NodeFigures | None, *, is_silent: bool) -> bodies.NodeOverview:
    """Return what is known of a node: of one without figures, what it says in the registry."""
    latest = node if figures is None else figures
    described = bodies.NodeOverview(
        node=node.node,
        version=node.version,
        state="silent" if is_silent else "serving",
        policy=node.policy,
        uptime_ms=latest.uptime_ms,
        connections=latest.connections,
        rooms=latest.rooms,
        lag_ms=latest.lag_ms,
    )
    if figures is None:
        return described
    return replace(
        described,
        state=figures.state,
        connections_max=figures.connections_max,
        cpu=figures.cpu,
        memory_bytes=figures.memory_bytes,
        unsent_bytes=figures.unsent_bytes,
        round_trip_ms=figures.round_trip_ms,
        rates=figures.rates,
    )


def _sum_of_rates(rates: Iterable[Rates]) -> Rates:
    columns = zip(*map(astuple, rates), strict=True)
    return Rates(*(round(sum(column), 2) for column in columns))


def _decisions(fresh: Iterable[NodeFigures]) -> list[DecisionRate]:
    """Return decisions a second of all nodes, most first."""
    sums: dict[tuple[str, str], float] = {}
    for figures in fresh:
        for decided in figures.decisions:
            key = decided.outcome, decided.source
            sums[key] = sums.get(key, 0.0) + decided.rate
    found = [DecisionRate(*key, round(rate, 2)) for key, rate in sums.items()]
    return sorted(found, key=lambda decided: (-decided.rate, decided.outcome, decided.source))


def _rooms(fresh: Iterable[NodeFigures]) -> list[bodies.RoomOverview]:
    """Return the largest rooms that any node names; each of its nodes counts all members of a room."""
    found: dict[str, bodies.RoomOverview] = {}
    for figures in fresh:
        for busy in figures.busy_rooms:
            known = found.get(busy.room)
            count = busy.count if known is None else max(busy.count, known.count)
            users = busy.users if known is None else max(busy.users, known.users)
            nodes = [*([] if known is None else known.nodes), figures.node]
            found[busy.room] = bodies.RoomOverview(busy.room, count, users, nodes)
    return sorted(found.values(), key=lambda room: (-room.count, room.room))[:ROOMS_MAX]


def _store(server: str, info: Mapping[str, Any]) -> bodies.StoreOverview:
    def number(field: str) -> int | None:
        return int(info[field]) if field in info else None

    version = info.get("valkey_version", info.get("redis_version"))
    name = "Valkey" if "valkey_version" in info else "Redis"
    return bodies.StoreOverview(
        server=server,
        version=None if version is None else f"{name} {version}",
        role=None if "role" not in info else str(info["role"]),
        uptime_s=number("uptime_in_seconds"),
        memory_bytes=number("used_memory"),
        memory_max_bytes=number("maxmemory"),
        clients=number("connected_clients"),
        commands=number("instantaneous_ops_per_sec"),
        evicted_keys=number("evicted_keys"),
    )


def _alerts(
    fresh: Iterable[NodeFigures],
    nodes: Iterable[bodies.NodeOverview],
    servers: Iterable[bodies.StoreOverview],
) -> list[Alert]:
    """Return the alerts of the nodes, and those that only others can see; the worst first."""
    found = [alert for figures in fresh for alert in figures.alerts]
    silent = f"has told no figures for {SILENT_MS // 1_000} s: it was killed, is frozen or cut off"
    versions: set[str] = set()
    policies: set[int] = set()
    for node in nodes:
        versions.add(node.version)
        if node.state == "silent":
            found.append(Alert("critical", "silent", silent, node.node))
        else:
            policies.add(node.policy)
    if len(versions) > 1:
        found.append(
            Alert("notice", "versions", f"Nodes run several versions: {', '.join(sorted(versions))}")
        )
    if len(policies) > 1:
        listed = ", ".join(map(str, sorted(policies)))
        found.append(Alert("notice", "policies", f"Nodes go by several versions of the policy: {listed}"))
    for server in servers:
        if server.evicted_keys:
            text = (
                f"The store {server.server}".strip()
                + f" has evicted {server.evicted_keys} keys: presence is lost"
            )
            found.append(Alert("critical", "evicted", text))
    return sorted(found, key=lambda alert: (LEVELS.index(alert.level), alert.kind, alert.node))


OVERVIEW_ROUTES: Final = ROUTES.routes
