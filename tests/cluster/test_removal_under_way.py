"""Members that a backend removes while their joins are under way, on virtual time."""

from collections.abc import Iterator

import pytest
from msgspec import UNSET

from presence_server.api import schema
from presence_server.api.calls import Calls
from presence_server.api.route_table import CheckedRequest
from presence_server.protocol.messages import Diff, Join, Removed, Welcome
from presence_server.registry.commands import Remove
from tests.simulation.test_world import Recorder
from tests.simulation.world import World

ROOM = "lobby"
SLOW_MS = 100


class Pair:
    """Two nodes, ann who is connected to the first, and bob who is in the room on the second."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.here, self.there = world.nodes
        self.ann, self.bob = Recorder(self.here, "ann"), Recorder(self.there, "bob")
        self.bob.socket.send(Join(ROOM))
        world.run_for(2_000)

    @property
    def cid(self) -> str:
        welcome = self.ann.messages[0]
        assert isinstance(welcome, Welcome)
        return welcome.cid

    @property
    def stored(self) -> set[str]:
        """Who is in the room that the store keeps."""
        return {record.member.user for record in self.world.store.roster(ROOM).values()}

    @property
    def is_removed(self) -> bool:
        """Whether ann has been told so, and the others that she was kicked."""
        diffs = [message for message in self.bob.messages if isinstance(message, Diff)]
        reasons = [leave.reason for diff in diffs for leave in diff.leaves]
        told = [message for message in self.ann.messages if isinstance(message, Removed)]
        assert (reasons, told) in (([], []), (["kicked"], [Removed(ROOM, "kicked")]))
        return bool(told)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with World(seed=11, nodes=2) as world:
        yield Pair(world)
        assert world.faults == []


def test_a_backend_that_is_answered_204_has_removed_the_member_that_was_found_meanwhile(pair: Pair) -> None:
    pair.there.link.slow(60_000, SLOW_MS, SLOW_MS + 1)
    asked = CheckedRequest({"room": ROOM, "cid": pair.cid}, schema.RemoveQuery(UNSET), None, {})
    answer = pair.there.call(lambda: Calls(pair.there.core.api_dependencies).remove(asked))
    pair.world.run_for(3 * SLOW_MS)  # the store has said that there is no such member
    pair.ann.socket.send(Join(ROOM))
    pair.world.run_for(SLOW_MS)
    assert pair.stored == {"ann", "bob"}
    pair.world.run_for(5_000)
    assert answer.result().status == 204
    assert pair.is_removed
    assert pair.stored == {"bob"}
    pair.ann.socket.send(Join(ROOM))
    pair.world.run_for(2_000)
    assert pair.stored == {"ann", "bob"}, "a join after the removal is a fresh one"


@pytest.mark.parametrize(("after_ms", "is_removed"), [(SLOW_MS // 2, True), (-SLOW_MS, False)])
def test_a_command_removes_who_had_asked_to_join_when_it_was_given(
    pair: Pair, after_ms: int, is_removed: bool
) -> None:
    pair.here.link.slow(60_000, SLOW_MS, SLOW_MS + 1)
    pair.world.run_for(1_000)
    asked_ms = pair.here.clock.wall_ms()
    pair.ann.socket.send(Join(ROOM))
    pair.world.run_for(1_000)
    (joined,) = [r.member for r in pair.world.store.roster(ROOM).values() if r.member.user == "ann"]
    assert joined.at > asked_ms + SLOW_MS // 2, "the store has entered it later"
    command = Remove(ROOM, pair.cid, asked_ms + after_ms)
    pair.here.context.copy().run(pair.here.core.directory.apply_command, command)
    pair.world.run_for(2_000)
    assert pair.is_removed == is_removed
