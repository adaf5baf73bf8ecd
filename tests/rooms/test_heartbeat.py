"""Members whose connections live are beaten in time, whatever else happens on the node."""

import pytest

from presence_server.protocol.messages import Diff, Join, Leave, Ok, Sync, Update, Watch
from tests.support.recording import members_in
from tests.support.world import World


def test_a_quiet_member_stays() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Watch("lobby"))
    world.pass_ms(10 * world.presence.ttl_ms)
    assert bob.take() == []
    assert set(world.roster("lobby")) == {ann.cid}


@pytest.mark.parametrize("every_ms", [250, 500, 1_000, 2_000])
def test_a_quiet_member_stays_while_other_rooms_come_and_go(every_ms: int) -> None:
    world = World()
    passing = [world.connect(f"passer-by {n}") for n in range(world.presence.ttl_ms // every_ms + 20)]
    for n, client in enumerate(passing):
        client.ask(Join(f"short-lived-{n}"))
    ann, bob = world.connect("ann"), world.connect("bob")
    for n in range(10):
        ann.ask(Join(f"room-{n}"))
        bob.ask(Watch(f"room-{n}"))
    for n, client in enumerate(passing):
        client.ask(Leave(f"short-lived-{n}"))
        world.pass_ms(every_ms)
    assert bob.take_only(Diff) == []


def test_who_was_forgotten_is_entered_again_with_its_state() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    bob.ask(Watch("lobby"))
    ann.ask(Join("lobby", state={"x": 1}))
    world.beating = False
    world.pass_ms(world.presence.ttl_ms)
    assert world.roster("lobby") == {}
    world.beating = True
    world.pass_ms(world.presence.heartbeat_ms)
    assert world.roster("lobby")[ann.cid].state == {"x": 1}
    diffs = bob.take_only(Diff)
    assert [len(diff.joins) - len(diff.leaves) for diff in diffs] == [1, -1, 1]


def test_an_update_of_who_was_forgotten_is_answered_with_the_version_that_it_has() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    bob.ask(Watch("lobby"))
    ann.ask(Join("lobby"))
    ann.ask(Update("lobby", {"x": 1}))
    world.beating = False
    world.pass_ms(world.presence.ttl_ms)
    answer = ann.ask(Update("lobby", {"x": 2}))
    member = world.roster("lobby")[ann.cid]
    assert isinstance(answer, Ok)
    assert (answer.v, member.state) == (member.v, {"x": 2})
    assert isinstance(ann.ask(Update("lobby", {"x": 3}, if_version=member.v)), Ok)


def test_a_view_made_when_a_member_has_expired_has_it_when_it_is_beaten_after_all() -> None:
    world = World()
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.drop()
    world.clock.move(world.presence.grace_lost_ms)
    world.rooms.views.read_behind_and_drop_idle()
    watcher = world.connect("watcher")
    watcher.ask(Watch("lobby"))
    again = world.connect("ann", resume=ann.resume)
    sync = again.ask(Join("lobby"))
    assert isinstance(sync, Sync)
    assert again.cid in members_in(sync)
    joined = [member.cid for diff in watcher.take_only(Diff) for member in diff.joins]
    assert joined == [again.cid]
