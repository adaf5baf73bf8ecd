"""Whole clusters whose rooms are crowded from the third member on: no view holds a roster, the store has the pages.

Seeds are those of other rooms. What is promised of the leaves that watchers hear is not promised of a crowd, and a node
that is isolated has no members of others to page.
"""

from typing import Final

import pytest

from presence_server.config.settings import RoomSettings
from presence_server.protocol.messages import Count, Error, Join, Members, Page, Sync
from tests.simulation.drawing import draw_plan
from tests.simulation.play import play
from tests.simulation.test_world import Recorder
from tests.simulation.world import World
from tests.support.effort import effort

FULL_MAX: Final = 2
CROWDED: Final = (RoomSettings(full_max=FULL_MAX),)
SEEDS: Final = (1_000_000_017, *range(100_000, 100_000 + effort(8, 60)))
FOR_ROSTERS: Final = frozenset(("leaves_heard", "leaves_heard_on_return"))
"""Promises of who is told who has left."""
UNAVAILABLE: Final = "was refused members "
CLIENTS: Final = 8


@pytest.mark.early
def test_clusters_of_crowded_rooms_break_no_promise() -> None:
    failed = {}
    for seed in SEEDS:
        broken = [
            (name, what)
            for name, what in play(draw_plan(seed), rooms=CROWDED).broken
            if name not in FOR_ROSTERS and UNAVAILABLE not in what
        ]
        if broken:
            failed[seed] = broken
    assert failed == {}


class Crowd:
    """Clients of two nodes in one crowded room, and one that asks for pages."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.clients = [Recorder(world.nodes[n % 2], f"user-{n}") for n in range(CLIENTS)]
        for client in self.clients:
            client.socket.send(Join("lobby", {"n": 1}))
        world.run_for(1_500)

    def numbers(self, who: int) -> list[tuple[int, int]]:
        """Return the numbers that a client has been told, one after the other."""
        told = [each for each in self.clients[who].messages if isinstance(each, Sync | Count)]
        return [(each.count, each.users) for each in told]

    def page(self, who: int) -> Page | Error:
        """Return what a client is answered that asks for members."""
        client = self.clients[who]
        client.socket.send(Members("lobby", None, 100, id=77))
        self.world.run_for(500)
        (answer,) = [each for each in client.messages if isinstance(each, Page | Error) and each.id == 77]
        client.messages.remove(answer)
        return answer

    def users(self, who: int) -> set[str]:
        """Return the users on a page that a client asks for."""
        page = self.page(who)
        assert isinstance(page, Page), page
        return {member["user"] for member in page.members}


EVERYBODY: Final = {f"user-{n}" for n in range(CLIENTS)}


def test_no_node_holds_the_roster_of_a_crowd_and_pages_of_each_have_everybody() -> None:
    with World(seed=5, nodes=2, rooms=CROWDED) as world:
        crowd = Crowd(world)
        for node in world.nodes:
            (view,) = node.core.directory.rooms.views
            assert (view.holds_roster, len(view.roster.records)) == (False, 0)
        assert [crowd.numbers(who)[-1] for who in range(CLIENTS)] == [(CLIENTS, CLIENTS)] * CLIENTS
        assert crowd.users(0) == crowd.users(1) == EVERYBODY
        assert world.faults == []


def test_an_isolated_node_counts_a_crowd_and_says_that_it_has_no_pages_of_it() -> None:
    with World(seed=6, nodes=2, rooms=CROWDED) as world:
        crowd = Crowd(world)
        world.nodes[0].link.cut(4_000)
        world.run_for(2_000)
        answer = crowd.page(0)
        assert isinstance(answer, Error)
        assert (answer.code, answer.room) == ("unavailable", "lobby")
        late = Recorder(world.nodes[0], "late")
        late.socket.send(Join("lobby"))
        world.run_for(500)
        assert crowd.numbers(0)[-1] == (CLIENTS + 1, CLIENTS + 1)
        world.run_for(8_000)
        assert crowd.users(0) == crowd.users(1) == EVERYBODY | {"late"}
        assert crowd.numbers(0)[-1] == crowd.numbers(1)[-1] == (CLIENTS + 1, CLIENTS + 1)
        assert world.faults == []


def test_the_numbers_of_a_crowd_do_not_fall_when_the_store_is_wiped() -> None:
    with World(seed=7, nodes=2, rooms=CROWDED) as world:
        crowd = Crowd(world)
        for client in crowd.clients:
            client.messages.clear()
        world.nodes[1].link.cut(3_500)  # it enters its members again later than the other
        world.store.flush_all()
        world.run_for(world.settings.presence.ttl_ms * 3)
        told = {numbers for who in range(CLIENTS) for numbers in crowd.numbers(who)}
        assert told <= {(CLIENTS, CLIENTS)}
        assert crowd.users(0) == crowd.users(1) == EVERYBODY
        assert world.faults == []


def test_members_of_a_crowd_whose_node_dies_are_out_of_its_numbers_and_pages_within_a_ttl() -> None:
    with World(seed=8, nodes=2, rooms=CROWDED) as world:
        crowd = Crowd(world)
        world.nodes[1].kill()
        world.run_for(world.settings.presence.ttl_ms + 1_000)
        assert crowd.numbers(0)[-1] == (CLIENTS // 2, CLIENTS // 2)
        assert crowd.users(0) == {f"user-{n}" for n in range(0, CLIENTS, 2)}
        assert world.faults == []
