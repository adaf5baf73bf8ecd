"""The port: what a node needs of its backend."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from anyio.abc import TaskGroup

from presence_server.bus.board import Board
from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.config.settings import Settings
from presence_server.counters import Histogram
from presence_server.opaque_sessions.port import SessionStore
from presence_server.presence.port import PresenceStore
from presence_server.presence.room_index.port import RoomIndex
from presence_server.registry.figures import NodeFigures
from presence_server.registry.port import NodeStatus, Registry
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.observer import RoomsObserver
from presence_server.session.directory import Directory
from presence_server.throttle.lists import AccessLists
from presence_server.throttle.policy import Policy
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.talkers import TalkersReport


class NodeBackend(RoomsObserver, Protocol):
    """The store, the bus and the registry of a node, and the work in the background that they need."""

    @property
    def store(self) -> PresenceStore:
        """Return where presence is kept."""

    @property
    def bus(self) -> Bus[RoomEvent]:
        """Return what carries events from node to node."""

    @property
    def room_index(self) -> RoomIndex:
        """Return what answers about rooms."""

    @property
    def registry(self) -> Registry:
        """Return what knows nodes and users' connections."""

    @property
    def sessions(self) -> SessionStore:
        """Return where opaque sessions are kept."""

    @property
    def policy(self) -> PolicyFollower:
        """Return what keeps this node at the stored policy of the limiter."""

    @property
    def talkers_board(self) -> Board[TalkersReport]:
        """Return where nodes tell each other whose hits they count most."""

    @property
    def figures_board(self) -> Board[NodeFigures]:
        """Return where nodes tell each other how they are."""

    def is_isolated(self) -> bool:
        """Tell whether the shared store, or a server of it, is out of reach."""

    def is_rejoining(self) -> bool:
        """Tell whether this node is entering its members again, in a part of the shared store that is back in reach."""

    def is_part_isolated(self, tag: str) -> bool:
        """Tell whether the part of the shared store that has a room, a cid or a user's tag is out of reach."""

    def checks(self) -> dict[str, str]:
        """Return the checks of `/readyz` by name, each with what is wrong; "": nothing."""

    @property
    def directory(self) -> Directory:
        """Return the connections and rooms of this node."""

    async def start(self, tasks: TaskGroup) -> None:
        """Begin background work; returns when the node may say that it is ready."""

    async def stop(self) -> None:
        """Tell the other nodes that this one is gone."""

    def sweep(self) -> None:
        """Carry out expiries, retries and ends of rejoins that are due. Called every 250 ms."""

    @property
    def health(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the servers of the shared store last said of themselves (INFO).

        They are named by their addresses; a standalone one, and the primary that Sentinels name, is "".
        """

    @property
    def round_trips(self) -> Mapping[str, Histogram]:
        """Return how long proofs of contact took, by server of the shared store."""

    async def examine(self) -> None:
        """Ask the servers of the shared store for their INFO, for `health`, which lacks those that answer too late."""

    @property
    def shared(self) -> bool:
        """Whether there is a shared store."""


class BackendContext(NamedTuple):
    """The parts of a node that every backend is made with, whatever it shares.

    `describe()` says how the node is, for the others; `apply_policy` has the limiter go by a policy;
    `new_directory(backend)` makes the node's connections and rooms, over a backend that has everything but those.
    """

    settings: Settings
    node: str
    clock: Clock
    describe: Callable[[], NodeStatus]
    apply_policy: Callable[[Policy, AccessLists], None]
    new_directory: Callable[[NodeBackend], Directory]
