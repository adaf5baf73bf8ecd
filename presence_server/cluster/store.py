"""Presence over many nodes: the shared store, and this node's own while that is away.

While the store is away the node is an island: its own clients join, update and leave as before, on a store in
memory that begins with what the node knew, and nobody else's member is judged. Who left meanwhile is told to
the shared store on return.
"""

from collections.abc import Callable, Iterable, Mapping

from presence_server.presence.memory import MemoryStore
from presence_server.presence.redis import PresenceRedisStore, Request
from presence_server.presence.roster import Record, Snapshot
from presence_server.presence.state import Beat, Enter, Leave, Linger, Operation, Outcome
from presence_server.presence.store import PresenceStore
from presence_server.redis_io.monitor import ConnectivityMonitor


class ClusterStore:
    """The presence store of a node among others; see `PresenceStore` for what it promises."""

    def __init__(self, shared: PresenceRedisStore, island: MemoryStore, monitor: ConnectivityMonitor) -> None:
        self._shared = shared
        self._island = island
        self._monitor = monitor
        self._departed: dict[tuple[str, str], Leave | Linger] = {}

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Carry out one operation where there is a store to do it."""
        if not self._monitor.away:
            self._shared.carry_out(room, operation, done)
            return
        if isinstance(operation, Leave | Linger):
            self._departed[room, operation.cid] = operation
        elif isinstance(operation, Enter):
            self._departed.pop((room, operation.cid), None)
        self._island.carry_out(room, operation, done)

    def snapshot(self, room: str, done: Callable[[Snapshot], None]) -> None:
        """Read a whole room."""
        if self._monitor.away:
            self._island.snapshot(room, done)
        else:
            self._shared.snapshot(room, done)

    def claim(self, cid: str, epoch: int, node: str, done: Callable[[int], None]) -> None:
        """Answer the epoch for a resumed connection."""
        if self._monitor.away:
            self._island.claim(cid, epoch, node, done)
        else:
            self._shared.claim(cid, epoch, node, done)

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        """Let no resume token of `cid` be claimed; while the store is away, not on this island."""
        if self._monitor.away:
            self._island.end_tokens(cid, done)
        else:
            self._shared.end_tokens(cid, done)

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        """Keep when the tokens of `user` were ended."""
        if self._monitor.away:
            self._island.end_user_tokens(user, at, done)
        else:
            self._shared.end_user_tokens(user, at, done)

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        """Answer when the tokens of `user` were ended; an island knows of those that ended on it."""
        if self._monitor.away:
            self._island.read_user_end(user, done)
        else:
            self._shared.read_user_end(user, done)

    def sweep(self) -> None:
        """Announce what has expired."""
        if self._monitor.away:
            self._island.sweep()
        else:
            self._shared.sweep()

    def forget(self, room: str) -> None:
        """Stop minding a room that nobody here watches."""
        self._shared.forget(room)

    def ask(self, room: str) -> None:
        """Ask the shared store where a room is; views hear the answer."""
        self._shared.carry_out(room, Beat({}, 0), lambda _: None)

    def be_island(self, rosters: Mapping[str, Iterable[Record]]) -> dict[str, int]:
        """Go on with what this node knows of its rooms; return each one's generation on the island."""
        self._departed.clear()
        self._shared.detached = True
        return self._island.begin(rosters)

    def abandon(self) -> None:
        """Do on the island what the shared store has not been sent yet."""
        self._shared.abandon()

    def return_(self) -> None:
        """Be with the shared store again."""
        self._shared.detached = False

    def replay(self) -> None:
        """Tell the shared store who left meanwhile."""
        departed, self._departed = self._departed, {}
        for (room, _), operation in departed.items():
            self._shared.carry_out(room, operation, lambda _: None)

    def ask_again(self, ask: Callable[[PresenceStore], None]) -> None:
        """Ask elsewhere what the shared store did not answer."""
        self._monitor.mark_unreachable()
        ask(self)

    def failed(self, room: str, request: Request) -> None:
        """Carry out elsewhere what may not have been carried out in the shared store."""
        self._monitor.mark_unreachable()
        self.carry_out(room, request.operation, request.done)
