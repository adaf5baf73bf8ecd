"""The parts of a node that the calls of the internal port act on."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from presence_server.bus.board import Board
from presence_server.clock import Clock
from presence_server.opaque_sessions.port import SessionStore
from presence_server.presence.room_index.port import RoomIndex
from presence_server.registry.figures import NodeFigures
from presence_server.registry.port import Registry
from presence_server.rooms.backend import BackendRooms
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.talkers import TalkersReport
from presence_server.throttle.watched import WatchedLimiter


class ApiDependencies(NamedTuple):
    """The parts of a node.

    `is_isolated()` tells whether the shared store, or a server of it, is out of reach, `is_part_isolated(tag)` whether
    that is so of the server or slot that has a room or a cid. `examine_store()` returns what each server of the shared
    store says of itself (INFO), by name; "" where there is one. `is_shared`: there is such a store.
    """

    rooms: BackendRooms
    room_index: RoomIndex
    registry: Registry
    sessions: SessionStore
    limiter: WatchedLimiter
    policy: PolicyFollower
    talkers_board: Board[TalkersReport]
    figures_board: Board[NodeFigures]
    examine_store: Callable[[], Awaitable[Mapping[str, Mapping[str, Any]]]]
    clock: Clock
    is_shared: bool
    is_isolated: Callable[[], bool]
    is_part_isolated: Callable[[str], bool]
