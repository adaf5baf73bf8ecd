"""The backend of a process on its own: everything is in memory."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

from presence_server.bus.board import MemoryBoard
from presence_server.bus.memory import MemoryBus
from presence_server.cluster.port import BackendContext
from presence_server.opaque_sessions.memory import MemorySessions
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.room_index.memory import MemoryRoomIndex
from presence_server.registry.memory import MemoryRegistry
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.policy_store import MemoryPolicyStore

if TYPE_CHECKING:
    from presence_server.counters import Histogram
    from presence_server.registry.figures import NodeFigures
    from presence_server.rooms.events import RoomEvent
    from presence_server.session.directory import Directory
    from presence_server.throttle.talkers import TalkersReport


class LocalBackend:
    """Store, bus and registry of this process alone; see `NodeBackend`."""

    shared = False
    health: Mapping[str, Mapping[str, Any]] = {}
    round_trips: Mapping[str, "Histogram"] = {}

    def __init__(self, context: BackendContext) -> None:
        self.directory: Directory
        clock, presence = context.clock, context.settings.presence
        self.bus: MemoryBus[RoomEvent] = MemoryBus()
        self.store = PresenceMemoryStore(self.bus, clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)
        self.room_index = MemoryRoomIndex(self.store)
        self.registry = MemoryRegistry(
            context.describe,
            lambda: self.directory,
            node=context.node,
            clock=clock,
            last_seen_ms=presence.last_seen_ms,
        )
        self.sessions = MemorySessions(clock)
        self.talkers_board: MemoryBoard[TalkersReport] = MemoryBoard()
        self.figures_board: MemoryBoard[NodeFigures] = MemoryBoard()
        self.policy = PolicyFollower(MemoryPolicyStore(), context.apply_policy, clock.wall_ms)
        self.directory = context.new_directory(self)

    def checks(self) -> dict[str, str]:
        """Return that there is nothing that could be wrong: everything is in this process."""
        return {"store": "", "pubsub": ""}

    def is_part_isolated(self, tag: str) -> bool:
        """Return False: everything is in this process."""
        del tag
        return False

    def is_isolated(self) -> bool:
        """Return False: everything is in this process."""
        return False

    def is_rejoining(self) -> bool:
        """Return False: everything is in this process."""
        return False

    def is_stale(self, room: str) -> bool:
        """Return False: there are no other nodes."""
        del room
        return False

    def note_occupied(self, room: str) -> None:
        """Do nothing: the store knows its rooms."""

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Do nothing: a store in this process loses a member only because nobody has renewed it in time."""

    def history_broken(self, room: str) -> None:
        """Do nothing: a store in this process keeps its history for as long as the process lives."""

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Send at once: a store in this process is never out of reach."""
        del room, cid
        send()

    async def start(self, tasks: TaskGroup) -> None:
        """Do nothing: there is no background work."""

    async def stop(self) -> None:
        """Do nothing: there are no other nodes."""

    def sweep(self) -> None:
        """Sweep the store."""
        self.store.sweep_expired()

    async def examine(self) -> None:
        """Do nothing: there is no shared store."""
