"""The body of the overview: what operators see of all nodes at a glance.

Times are ms since 1970 by the store's clock; rates are events a second, as means of the last ten seconds.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from presence_server.api.schema import RequestBody
from presence_server.registry.figures import Alert, DecisionRate, History, NodeState, Rates
from presence_server.throttle.talkers import Line

State = NodeState | Literal["silent"]


class OverviewQuery(RequestBody, frozen=True):
    """The parts of the answer beside the nodes."""

    rooms: Annotated[int, Meta(ge=0, le=50, description="How many of the largest rooms to name")] = 20
    throttled: Annotated[int, Meta(ge=0, le=50, description="How many refused keys to name")] = 20
    history: Annotated[bool, Meta(description="Whether to tell what happened in the last five minutes")] = (
        True
    )


class NodeOverview(Struct, frozen=True):
    """A node that is alive, and its figures.

    `silent`: its record in the registry has not ended, but it has published no figures for six seconds or longer; they
    are null then. `cpu` is in cores, `lag_ms` the worst of ten seconds; `round_trip_ms` is null without a store.
    """

    node: str
    version: str
    state: State
    policy: int
    uptime_ms: int
    connections: int
    rooms: int
    lag_ms: int
    connections_max: int | None = None
    cpu: float | None = None
    memory_bytes: int | None = None
    unsent_bytes: int | None = None
    round_trip_ms: float | None = None
    rates: Rates | None = None


class LostNodeOverview(Struct, frozen=True):
    """A node that was lost in the last five minutes; it was last heard of `ago_ms` ago."""

    node: str
    ago_ms: int


class RoomOverview(Struct, frozen=True):
    """One of the largest rooms that are watched, and the nodes that have watchers of it."""

    room: str
    count: int
    users: int
    nodes: list[str]


class StoreOverview(Struct, frozen=True):
    """A server of the shared store, as it describes itself (INFO); null where it does not say.

    `server` is its address in a Cluster, else empty.
    """

    server: str
    version: str | None
    role: str | None
    uptime_s: int | None
    memory_bytes: int | None
    memory_max_bytes: int | None
    clients: int | None
    commands: int | None
    evicted_keys: int | None


class Throttled(Struct, frozen=True):
    """The keys that were refused most, over the last `over_ms`; see `/v1/throttle/top`."""

    top: list[Line]
    over_ms: int


class OverviewAnswer(Struct, frozen=True):
    """All nodes at a glance, as `node` sees them.

    `complete` is false where the store is out of reach: then only the node that was asked is there. `history` is summed
    up over the nodes that are alive; its steps are `step_ms` long.
    """

    node: str
    at: int
    shared: bool
    complete: bool
    nodes: list[NodeOverview]
    lost: list[LostNodeOverview]
    rates: Rates
    decisions: list[DecisionRate]
    rooms: list[RoomOverview]
    throttled: Throttled
    store: list[StoreOverview]
    alerts: list[Alert]
    step_ms: int
    history: History | None
