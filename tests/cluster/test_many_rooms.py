"""A node in more rooms than one turn of the loop has time for loses contact and comes back, on virtual time."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from presence_server.cluster import reentry
from presence_server.cluster.connectivity import State
from presence_server.cluster.reentry import UNANSWERED_MAX
from presence_server.cluster.rejoin import Rejoin
from presence_server.cluster.slices import STEPS_MAX
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import LimitsSettings
from presence_server.presence.operations import Beat, Enter, Operation, Outcome
from presence_server.presence.roster import Record
from presence_server.protocol.messages import (
    Diff,
    Join,
    Leave,
    Publish,
    Published,
    ServerMessage,
    Stale,
    Sync,
    Update,
    Watch,
    Welcome,
)
from tests.simulation.test_world import Recorder
from tests.simulation.world import World

ROOMS = [f"r{i}" for i in range(3 * STEPS_MAX)]
BOTH = {room: {"ann", "bob"} for room in ROOMS}
OTHER_MAX = 20
"""Operations of a turn that have nothing to do with a rejoin: heartbeats."""


class Crowd:
    """Two nodes with a member in each of many rooms; `asked` are the operations of the first node, with their turns."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.here, self.there = world.nodes
        self.ann, self.bob = Recorder(self.here, "ann"), Recorder(self.there, "bob")
        for member in (self.ann, self.bob):
            world.run_for(200)
            for room in ROOMS:
                member.socket.send(Join(room))
                world.run_for(5)
        world.run_for(3_000)
        assert self.names(self.ann) == self.names(self.bob) == BOTH
        self.asked: list[tuple[tuple[float, int], str, Operation]] = []
        carry_out = self.store.carry_out

        def recorded(room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
            self.asked.append((self.turn, room, operation))
            carry_out(room, operation, done)

        self.store.carry_out = recorded  # type: ignore[method-assign]  # records

    @property
    def turn(self) -> tuple[float, int]:
        return self.world.loop.time(), self.world.loop._turns

    @property
    def rejoin(self) -> Rejoin:
        rejoin = self.here.core.backend._rejoin  # type: ignore[attr-defined]  # of a cluster's
        assert isinstance(rejoin, Rejoin)
        return rejoin

    @property
    def store(self) -> ClusterStore:
        return self.rejoin._store

    @property
    def state(self) -> State:
        return self.rejoin._parts.of(ROOMS[0]).connectivity.state

    @staticmethod
    def names(member: Recorder) -> dict[str, set[str]]:
        """Return the users that a member has been told of, by room."""
        rooms: dict[str, dict[str, str]] = {}
        for message in member.messages:
            if isinstance(message, Sync):
                rooms[message.room] = {each["cid"]: each["user"] for each in message.members}
            elif isinstance(message, Diff):
                rooms[message.room] |= {each.cid: each.user for each in message.joins}
                for leave in message.leaves:
                    del rooms[message.room][leave.cid]
        return {room: set(members.values()) for room, members in rooms.items()}

    def stored(self) -> dict[str, set[str]]:
        """Return who is in each room that the store keeps."""
        return {
            room: {record.member.user for record in self.world.store.roster(room).values()} for room in ROOMS
        }

    def cut(self, ms: float) -> None:
        """Cut the first node off for so long, and let it notice."""
        self.here.link.cut(ms)
        self.run_until(lambda: self.state is State.ISOLATED)

    def run_until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(20_000):
            if is_so():
                return
            self.world.run_for(0.5)
        pytest.fail("it never came to that")

    def operations(self, kind: type[Any]) -> list[tuple[tuple[float, int], str]]:
        """Return the rooms that an operation was asked for in, and the turns."""
        return [(turn, room) for turn, room, operation in self.asked if isinstance(operation, kind)]

    def entered(self) -> set[str]:
        return {room for _, room in self.operations(Enter)}

    def told(self, kind: type[ServerMessage]) -> list[Any]:
        return [message for message in self.ann.messages if isinstance(message, kind)]


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    limits = LimitsSettings(rooms=2 * len(ROOMS))
    with World(seed=5, nodes=2, limits=limits, client_delay_ms=(1, 2)) as world:
        yield Crowd(world)
        assert world.faults == []


def most(turns: list[tuple[tuple[float, int], str]]) -> int:
    """Return the most rooms of one turn."""
    return max(Counter(turn for turn, _ in turns).values())


def test_no_turn_enters_more_than_a_slice_of_rooms_and_all_are_entered_in_the_end(crowd: Crowd) -> None:
    crowd.cut(500)
    crowd.ann.messages.clear()
    crowd.bob.messages.clear()
    crowd.asked.clear()
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    assert crowd.entered() == set(ROOMS)
    assert most([(turn, room) for turn, room, _ in crowd.asked]) <= STEPS_MAX + OTHER_MAX
    crowd.world.run_for(2_000)
    assert [crowd.told(kind) for kind in (Diff, Sync)] == [[], []], "nothing had changed"
    assert {each.room: each.stale for each in crowd.told(Stale)} == dict.fromkeys(ROOMS, False)
    assert crowd.bob.messages == []
    assert crowd.rejoin._reentry._unanswered == 0


def test_members_are_renewed_in_all_rooms_before_the_first_is_entered(crowd: Crowd) -> None:
    crowd.cut(500)
    crowd.asked.clear()
    crowd.run_until(lambda: bool(crowd.operations(Enter)))
    named = [room for _, room, operation in crowd.asked if isinstance(operation, Beat) and operation.epochs]
    assert set(named) == set(ROOMS)


def test_members_of_one_large_room_are_renewed_before_the_first_is_entered() -> None:
    with World(seed=5, nodes=1, client_delay_ms=(1, 2)) as world:
        world.run_for(500)
        (node,) = world.nodes
        members = [Recorder(node, f"member{i}") for i in range(STEPS_MAX)]
        world.run_for(200)
        for member in members:
            member.socket.send(Join("large"))
            world.run_for(5)
        Recorder(node, "watcher").socket.send(Watch("small"))
        world.run_for(1_000)
        node.link.cut(500)
        world.run_for(200)
        assert not node.has_contact
        asked: list[tuple[str, Operation]] = []
        store = node.core.backend.store
        carry_out = store.carry_out

        def recorded(room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
            if not node.core.backend.is_isolated():
                asked.append((room, operation))
            carry_out(room, operation, done)

        store.carry_out = recorded  # type: ignore[method-assign]  # records
        while not any(isinstance(operation, Enter) for _, operation in asked):
            world.run_for(0.5)
        first = next(i for i, (_, operation) in enumerate(asked) if isinstance(operation, Enter))
        beats = [(room, len(each.epochs)) for room, each in asked[:first] if isinstance(each, Beat)]
        assert beats == [("large", STEPS_MAX)], "rooms without members here need none"
        assert world.faults == []


def test_what_is_under_way_of_a_rejoin_is_bounded(crowd: Crowd) -> None:
    crowd.cut(500)
    crowd.here.link.slow(10_000, 20, 50)
    unanswered = 0
    while crowd.state is not State.CONNECTED:
        crowd.world.run_for(1)
        unanswered = max(unanswered, crowd.rejoin._reentry._unanswered)
    assert STEPS_MAX < unanswered <= UNANSWERED_MAX + 1


def test_contact_that_ends_in_the_middle_gives_the_rest_up_and_the_next_return_enters_all(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reentry, "UNANSWERED_MAX", len(ROOMS) // 3)
    crowd.cut(500)
    crowd.run_until(lambda: bool(crowd.operations(Enter)))
    crowd.here.link.cut(500)
    crowd.run_until(lambda: crowd.state is State.ISOLATED)
    first = crowd.entered()
    assert 0 < len(first) < len(ROOMS)
    crowd.world.run_for(200)
    assert crowd.entered() == first, "what was left is given up"
    crowd.asked.clear()
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    assert crowd.entered() == set(ROOMS)
    crowd.world.run_for(2_000)
    assert crowd.names(crowd.bob) == crowd.stored() == BOTH


def test_a_store_that_was_wiped_has_all_members_again_and_nobody_hears_of_it(crowd: Crowd) -> None:
    crowd.cut(500)
    crowd.ann.messages.clear()
    crowd.bob.messages.clear()
    crowd.world.store.flush_all()
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    crowd.world.run_for(crowd.here.presence.ttl_ms + 4_000)
    assert crowd.stored() == BOTH
    assert [crowd.told(kind) for kind in (Diff, Sync)] == [[], []]
    assert not [message for message in crowd.bob.messages if isinstance(message, Diff | Sync)]


def begun_in_memory(crowd: Crowd) -> list[tuple[tuple[float, int], str]]:
    """Return where it is recorded which rooms go on in memory, and in which turn."""
    begun: list[tuple[tuple[float, int], str]] = []
    begin = crowd.store.begin_in_memory

    def recorded(room: str, records: Iterable[Record]) -> int:
        begun.append((crowd.turn, room))
        return begin(room, records)

    crowd.store.begin_in_memory = recorded  # type: ignore[method-assign]  # records
    return begun


def test_no_turn_has_more_than_a_slice_of_rooms_go_on_in_memory(crowd: Crowd) -> None:
    begun = begun_in_memory(crowd)
    crowd.cut(1_000)
    crowd.world.run_for(50)
    assert sorted(room for _, room in begun) == sorted(ROOMS)
    assert most(begun) <= STEPS_MAX + OTHER_MAX


def test_a_room_that_is_asked_for_before_its_turn_goes_on_in_memory_at_once(crowd: Crowd) -> None:
    begun = begun_in_memory(crowd)
    work = crowd.rejoin._slices.work
    crowd.rejoin._slices.work = lambda: None  # type: ignore[method-assign]  # its turn does not come
    crowd.cut(2_000)
    last = ROOMS[-1]
    assert last not in [room for _, room in begun]
    crowd.ann.socket.send(Update(last, {"mood": "alone"}))
    crowd.run_until(lambda: [each.room for each in crowd.told(Diff) if each.updates] == [last])
    assert [room for _, room in begun].count(last) == 1
    assert len(begun) < len(ROOMS)
    crowd.rejoin._slices.work = work  # type: ignore[method-assign]  # its turn comes again
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    crowd.run_until(lambda: [each.room for each in crowd.bob.messages if isinstance(each, Diff)] == [last])


def test_a_resume_before_the_turn_of_rooms_has_those_of_its_connection_alone_go_on_in_memory(
    crowd: Crowd,
) -> None:
    last = ROOMS[-1]
    carl = Recorder(crowd.here, "carl")
    crowd.world.run_for(50)
    carl.socket.send(Join(last))
    crowd.world.run_for(100)
    welcome = carl.messages[0]
    assert isinstance(welcome, Welcome)
    begun = begun_in_memory(crowd)
    crowd.rejoin._slices.work = lambda: None  # type: ignore[method-assign]  # its turn does not come
    crowd.cut(5_000)
    before = {room for _, room in begun}
    assert last not in before
    carl.socket.reset()
    again = Recorder(crowd.here, "carl", resume=welcome.resume)
    crowd.run_until(lambda: bool(again.messages))
    assert isinstance(again.messages[0], Welcome)
    assert again.messages[0].resumed
    assert {room for _, room in begun} - before == {last}


def test_a_member_that_came_and_went_meanwhile_is_not_read_as_gone_before_it_has_been_entered(
    crowd: Crowd,
) -> None:
    last = ROOMS[-1]
    crowd.cut(1_500)
    carl = Recorder(crowd.here, "carl")
    crowd.world.run_for(50)
    carl.socket.send(Join(last))
    crowd.world.run_for(100)
    carl.socket.reset()
    grace_over_ms = crowd.world.now_ms + crowd.here.presence.grace_lost_ms
    crowd.world.run_for(100)
    crowd.ann.messages.clear()
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    assert crowd.world.now_ms < grace_over_ms
    assert not [each for each in crowd.told(Diff) if each.leaves]
    crowd.run_until(lambda: bool([each for each in crowd.told(Diff) if each.leaves]))
    assert crowd.world.now_ms >= grace_over_ms
    assert [leave.user for each in crowd.told(Diff) for leave in each.leaves] == ["carl"]


def test_a_room_that_something_is_said_in_before_its_turn_is_entered_before_that(crowd: Crowd) -> None:
    last = ROOMS[-1]
    crowd.cut(500)
    crowd.rejoin._slices.work = lambda: None  # type: ignore[method-assign]  # its turn does not come
    crowd.run_until(lambda: crowd.state is State.REJOINING)
    crowd.asked.clear()
    crowd.ann.socket.send(Publish(last, "hello"))
    crowd.run_until(lambda: any(isinstance(each, Published) for each in crowd.bob.messages))
    assert crowd.entered() == {last}


def test_who_says_something_before_the_turn_of_its_room_is_entered_and_the_others_wait(crowd: Crowd) -> None:
    last = ROOMS[-1]
    others = [Recorder(crowd.here, f"other{i}") for i in range(2 * STEPS_MAX)]
    crowd.world.run_for(200)
    for other in others:
        other.socket.send(Join(last))
        crowd.world.run_for(5)
    crowd.world.run_for(1_000)
    crowd.cut(500)
    work = crowd.rejoin._slices.work
    crowd.rejoin._slices.work = lambda: None  # type: ignore[method-assign]  # its turn does not come
    crowd.run_until(lambda: crowd.state is State.REJOINING)
    crowd.asked.clear()
    for other in others[:2]:
        other.socket.send(Publish(last, other.user))
    crowd.run_until(lambda: len([each for each in crowd.bob.messages if isinstance(each, Published)]) == 2)
    named = [operation.user for _, _, operation in crowd.asked if isinstance(operation, Enter)]
    assert sorted(named) == ["other0", "other1"]
    crowd.rejoin._slices.work = work  # type: ignore[method-assign]  # its turn comes again
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    named = [
        operation.user for _, room, operation in crowd.asked if isinstance(operation, Enter) and room == last
    ]
    assert sorted(named) == sorted(["ann", *(other.user for other in others)]), "each once"
    assert crowd.rejoin._reentry._unanswered == 0
    assert {other.user for other in others} < crowd.stored()[last]


def test_a_room_that_was_left_before_its_turn_can_be_joined_again(crowd: Crowd) -> None:
    last = ROOMS[-1]
    crowd.cut(500)
    work = crowd.rejoin._slices.work
    crowd.rejoin._slices.work = lambda: None  # type: ignore[method-assign]  # its turn does not come
    crowd.run_until(lambda: crowd.state is State.REJOINING)
    crowd.ann.socket.send(Leave(last))
    crowd.run_until(lambda: crowd.rejoin._rooms.views.get(last) is None)
    crowd.ann.messages.clear()
    crowd.ann.socket.send(Join(last))
    crowd.world.run_for(200)
    crowd.rejoin._slices.work = work  # type: ignore[method-assign]  # its turn comes again
    crowd.run_until(lambda: crowd.state is State.CONNECTED)
    crowd.run_until(lambda: crowd.names(crowd.ann) == {last: {"ann", "bob"}})


def test_the_log_says_in_a_few_lines_how_much_a_store_has_lost(crowd: Crowd) -> None:
    with capture_logs() as logs:
        crowd.world.store.flush_all()
        crowd.world.run_for(crowd.here.presence.heartbeat_ms)
        crowd.run_until(lambda: crowd.state is State.CONNECTED)
    lines = [log for log in logs if log["event"] == "the store has lost something"]
    assert 0 < len(lines) <= 2 * len(crowd.world.nodes) * crowd.here.presence.heartbeat_ms // 250
    assert max(line["times"] for line in lines) > 1
