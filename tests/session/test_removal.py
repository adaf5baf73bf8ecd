"""Who is taken out of a room, and whose connections are closed for good, on a clock that is moved by hand."""

from typing import Any

import anyio
import msgspec
import pytest

from presence_server.clock import Moment
from presence_server.presence.operations import Leave
from presence_server.presence.operations import Linger as LingerOperation
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import (
    Diff,
    Error,
    Join,
    Ok,
    Publish,
    Removed,
    Sync,
    Update,
    Watch,
)
from presence_server.protocol.messages import (
    Leave as LeaveRoom,
)
from presence_server.registry.commands import Ban, Command, Disconnect, Kick, Remove
from presence_server.session.lingers import Grace, LingeringConnection, Lingers
from tests.support.handclock import HandClock
from tests.support.world import Client, World

KICKED = Removed("lobby", "kicked")


class Kicking(World):
    """A node with a backend that removes people."""

    def command(self, command: Command) -> None:
        anyio.run(self.registry.send_command, command)
        self.settle()

    def kick_in_store(self, cid: str) -> int:
        """Remove a member as any node's API does; return when its membership began."""
        found: list[Any] = []
        self.store.carry_out("lobby", Leave(cid, None, "kicked", fence=True), found.append)
        at: int = found[0].record.member.at
        return at

    def kick(self, client: Client) -> None:
        self.command(Remove("lobby", client.cid, self.kick_in_store(client.cid)))


@pytest.fixture
def world() -> Kicking:
    return Kicking()


@pytest.fixture
def bob(world: Kicking) -> Client:
    bob = world.connect("bob")
    bob.ask(Watch("lobby"))
    return bob


@pytest.fixture
def ann(world: Kicking, bob: Client) -> Client:
    ann = world.connect("ann")
    ann.ask(Join("lobby", state={"x": 1}))
    ann.ask(Join("hall"))
    bob.take()
    return ann


def test_a_removed_member_is_told_and_its_connection_stays(world: Kicking, ann: Client, bob: Client) -> None:
    world.kick(ann)
    assert ann.take()[-1] == KICKED
    assert ann.is_open
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.reason) for left in diff.leaves] == [(ann.cid, "kicked")]
    bob.ask(Publish("lobby", 1))
    assert ann.take() == []
    refused = ann.ask(Publish("lobby", 1))
    assert isinstance(refused, Error)
    assert refused.code == "not_joined"
    assert isinstance(ann.ask(Publish("hall", 1)), Ok)
    assert set(world.roster("hall")) == {ann.cid}


def test_a_removed_member_stays_out_until_it_joins_afresh(world: Kicking, ann: Client, bob: Client) -> None:
    world.kick(ann)
    bob.take()
    world.pass_ms(3 * world.presence.heartbeat_ms)
    assert bob.take() == []
    assert isinstance(ann.ask(Join("lobby")), Sync)
    assert set(world.roster("lobby")) == {ann.cid}
    world.pass_ms(3 * world.presence.heartbeat_ms)
    assert set(world.roster("lobby")) == {ann.cid}


def test_who_knows_of_its_removal_may_join_afresh_after_a_resume(world: Kicking, ann: Client) -> None:
    world.kick(ann)
    ann.drop()
    again = world.connect("ann", resume=ann.resume)
    assert again.welcome.resumed
    assert world.roster("lobby") == {}
    assert isinstance(again.ask(Join("lobby")), Sync)


def test_a_resume_does_not_bring_back_who_was_removed_meanwhile(
    world: Kicking, ann: Client, bob: Client
) -> None:
    ann.drop()
    world.kick(ann)
    bob.take()
    again = world.connect("ann", resume=ann.resume)
    assert (again.cid, again.welcome.resumed) == (ann.cid, True)
    refused = again.ask(Join("lobby", state={"x": 1}))  # the client enters its rooms again by itself
    assert isinstance(refused, Error)
    assert (refused.code, refused.room) == ("forbidden", "lobby")
    assert again.take() == [KICKED]
    assert bob.take() == []
    assert world.roster("lobby") == {}
    assert isinstance(again.ask(Join("hall")), Sync)
    assert isinstance(again.ask(Join("lobby")), Sync)  # now it knows


def test_a_node_that_missed_the_command_finds_out_by_its_heartbeat(
    world: Kicking, ann: Client, bob: Client
) -> None:
    world.kick_in_store(ann.cid)
    world.pass_ms(2 * world.presence.heartbeat_ms)
    assert ann.take_only(Removed) == [KICKED]
    assert [len(diff.joins) for diff in bob.take_only(Diff)] == [0]
    assert isinstance(ann.ask(Join("lobby")), Sync)


def test_an_update_that_meets_a_removal_is_refused(world: Kicking, ann: Client) -> None:
    world.kick_in_store(ann.cid)
    refused = ann.ask(Update("lobby", {"x": 2}))
    assert isinstance(refused, Error)
    assert refused.code == "forbidden"
    assert ann.take_only(Removed) == [KICKED]
    assert world.roster("lobby") == {}


def test_a_command_that_comes_late_spares_who_joined_afresh(world: Kicking, ann: Client) -> None:
    at = world.kick_in_store(ann.cid)
    world.clock.move(1_000)
    ann.ask(Update("lobby", {"x": 2}))  # finds out
    ann.ask(Join("lobby"))
    ann.take()
    world.command(Remove("lobby", ann.cid, at))
    assert ann.take() == []
    assert set(world.roster("lobby")) == {ann.cid}


def test_a_watcher_is_removed_too(world: Kicking, bob: Client) -> None:
    world.command(Remove("lobby", bob.cid, world.clock.wall_ms()))
    assert bob.take() == [KICKED]
    assert isinstance(bob.ask(Watch("lobby")), Sync)


def test_leaving_is_knowing(world: Kicking, ann: Client) -> None:
    world.kick_in_store(ann.cid)
    ann.ask(LeaveRoom("lobby"))
    assert isinstance(ann.ask(Join("lobby")), Sync)


def test_a_ban_from_a_room_refuses_joins_and_watches_there_alone(world: Kicking, ann: Client) -> None:
    now_ms = world.clock.wall_ms()
    other = world.connect("ann")
    world.command(Remove("lobby", ann.cid, world.kick_in_store(ann.cid), "ann", now_ms + 60_000))
    for client in (ann, other):
        for message in (Join("lobby"), Watch("lobby")):
            refused = client.ask(message)
            assert isinstance(refused, Error)
            assert (refused.code, refused.room) == ("forbidden", "lobby")
    assert isinstance(other.ask(Join("hall")), Sync)
    assert isinstance(world.connect("bob").ask(Join("lobby")), Sync)
    world.clock.move(60_000)
    assert isinstance(ann.ask(Join("lobby")), Sync)


def test_a_ban_from_a_room_is_lifted(world: Kicking, ann: Client) -> None:
    now_ms = world.clock.wall_ms()
    world.command(Ban("ann", "attic", now_ms, now_ms + 60_000))
    assert isinstance(ann.ask(Join("attic")), Error)
    world.command(Ban("ann", "attic", now_ms, 0))
    assert isinstance(ann.ask(Join("attic")), Sync)


@pytest.mark.parametrize("by_user", [True, False])
def test_the_tokens_of_who_was_closed_for_good_resume_nothing(
    world: Kicking, ann: Client, bob: Client, by_user: bool
) -> None:
    now_ms = world.clock.wall_ms()
    world.command(Disconnect("ann", now_ms, None) if by_user else Kick(ann.cid, now_ms))
    assert ann.closed_with == 4003
    world.clock.move(1)
    again = world.connect("ann", resume=ann.resume)
    assert not again.welcome.resumed
    assert again.cid != ann.cid
    assert isinstance(again.ask(Join("lobby")), Sync)
    assert again.is_open
    more = world.connect("ann", resume=again.resume)  # its own token is as good as any
    assert (more.welcome.resumed, more.cid) == (True, again.cid)


def test_a_node_that_missed_the_command_does_not_honour_a_token_that_the_store_has_ended(
    world: Kicking, ann: Client
) -> None:
    ann.drop(Ending.LOST)
    world.store.end_tokens(ann.cid, lambda: None)
    again = world.connect("ann", resume=ann.resume)
    assert (again.welcome.resumed, again.cid == ann.cid) == (False, False)


def test_a_node_that_missed_the_command_does_not_honour_the_tokens_of_a_user_who_was_disconnected(
    world: Kicking, ann: Client
) -> None:
    ann.drop(Ending.LOST)
    world.store.end_user_tokens("ann", world.clock.wall_ms(), lambda: None)
    world.clock.move(1)
    again = world.connect("ann", resume=ann.resume)
    assert (again.welcome.resumed, again.cid == ann.cid) == (False, False)
    more = world.connect("ann", resume=again.resume)  # a token that was issued later
    assert (more.welcome.resumed, more.cid) == (True, again.cid)


def test_a_join_after_a_ban_that_was_refused_for_the_ban_before_is_let_in(
    world: Kicking, ann: Client
) -> None:
    ann.drop()
    until_ms = world.clock.wall_ms() + 3_000
    world.command(Remove("lobby", ann.cid, world.kick_in_store(ann.cid), "ann", until_ms))
    again = world.connect("ann", resume=ann.resume)
    assert again.welcome.resumed
    assert isinstance(again.ask(Join("lobby")), Error)
    world.pass_ms(3_000)
    assert isinstance(again.ask(Join("lobby")), Sync)
    assert again.take_only(Removed) == []
    assert set(world.roster("lobby")) == {ann.cid}


def test_a_ban_that_refuses_a_member_s_join_leaves_the_member_there(world: Kicking, ann: Client) -> None:
    now_ms = world.clock.wall_ms()
    world.command(Ban("ann", "lobby", now_ms, now_ms + 60_000))
    assert isinstance(ann.ask(Join("lobby")), Error)
    assert set(world.roster("lobby")) == {ann.cid}


@pytest.mark.parametrize("how", [Ending.LOST, Ending.CLEAN])
@pytest.mark.parametrize("by_user", [True, False])
def test_who_is_closed_for_good_within_its_grace_is_gone_at_once(
    world: Kicking, ann: Client, bob: Client, by_user: bool, how: Ending
) -> None:
    ann.drop(how)
    world.clock.move(1_000)
    now_ms = world.clock.wall_ms()
    world.command(Disconnect("ann", now_ms, None) if by_user else Kick(ann.cid, now_ms))
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.reason) for left in diff.leaves] == [(ann.cid, "kicked")]
    assert (world.roster("lobby"), world.roster("hall")) == ({}, {})


def test_rooms_that_a_resumed_connection_has_not_joined_again_are_left_by_a_kick(
    world: Kicking, ann: Client
) -> None:
    ann.drop()
    again = world.connect("ann", resume=ann.resume)
    again.ask(Join("lobby"))
    world.command(Kick(ann.cid, world.clock.wall_ms()))
    assert again.closed_with == 4003
    assert (world.roster("lobby"), world.roster("hall")) == ({}, {})


def test_a_command_that_is_older_than_a_connection_leaves_its_grace_alone(world: Kicking) -> None:
    ordered_ms = world.clock.wall_ms()
    world.clock.move(10_000)
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.drop()
    world.command(Disconnect("ann", ordered_ms, None))
    assert set(world.roster("lobby")) == {ann.cid}


@pytest.mark.parametrize("by_user", [True, False])
def test_who_came_before_the_store_s_clock_was_put_back_is_closed_by_a_later_command(
    world: Kicking, by_user: bool
) -> None:
    world.clock.move(9_000)
    ann, gone = world.connect("ann"), world.connect("ann")
    gone.ask(Join("lobby"))
    gone.drop()
    assert set(world.roster("lobby")) == {gone.cid}
    world.clock.follow(world.clock.wall_ms() - 5_000)
    world.clock.move(1_000)
    at = world.clock.wall_ms()
    for cid in (ann.cid, gone.cid):
        world.command(Disconnect("ann", at, None) if by_user else Kick(cid, at))
    assert ann.closed_with == 4003
    assert world.roster("lobby") == {}
    later = world.connect("ann")
    later.ask(Join("lobby"))
    world.clock.move(2_000)
    again = world.connect("ann")
    world.command(Disconnect("ann", at, None))
    assert (later.closed_with, again.closed_with) == (4003, None), "the first came within the skew of nodes"


def test_a_command_from_before_the_clock_was_put_forward_closes_who_was_there(world: Kicking) -> None:
    ann = world.connect("ann")
    at = world.clock.wall_ms()
    world.clock.follow(at + 7_200_000)
    later = world.connect("ann")
    world.command(Disconnect("ann", at, None))
    assert (ann.closed_with, later.closed_with) == (4003, None)


@pytest.mark.parametrize("heard", [True, False])
def test_a_token_from_before_the_store_s_clock_was_put_back_ends_with_a_later_command(
    world: Kicking, heard: bool
) -> None:
    ann = world.connect("ann")
    ann.drop()
    world.clock.follow(world.clock.wall_ms() - 5_000)
    world.clock.move(1_000)
    if heard:
        world.command(Disconnect("ann", world.clock.wall_ms(), None))
    else:
        world.store.end_user_tokens("ann", world.clock.wall_ms(), lambda: None)
    assert not world.connect("ann", resume=ann.resume).welcome.resumed
    world.clock.move(5_000)
    more = world.connect("ann")
    assert world.connect("ann", resume=more.resume).welcome.resumed


def test_lingers_beyond_their_limit_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presence_server.session.lingers.LINGERS_MAX", 3)
    lingers = Lingers(HandClock())
    for cid in ("a", "b", "c"):
        graces = {room: Grace(1, 1_000) for room in ("lobby", "hall")}
        lingers.add_lingering(LingeringConnection(cid, "ann", "s", Moment(0, 0), graces, 1_000))
    for found in (lingers.of_user("ann"), lingers.of_session("s"), lingers.of_connection("c")):
        assert [linger.cid for linger in found] == ["c"]
    assert len(lingers) == 2
    lingers.discard_over(1_000)
    assert len(lingers) == 0
    for found in (lingers.of_user("ann"), lingers.of_session("s"), lingers.of_connection("c")):
        assert found == []


def test_members_of_an_earlier_life_keep_their_grace_when_the_connection_ends_again() -> None:
    clock = HandClock()
    lingers, began_ms, opened = Lingers(clock), clock.now_ms(), Moment.now(clock)
    graces = {"lobby": Grace(1, began_ms + 3_000), "attic": Grace(1, began_ms + 500)}
    lingers.add_lingering(LingeringConnection("a", "ann", "", opened, graces, began_ms + 3_000))
    clock.move(1_000)
    lingers.add_lingering(
        LingeringConnection("a", "ann", "", opened, {"hall": Grace(2, began_ms + 4_000)}, began_ms + 4_000)
    )
    assert lingers.rest_of("a", "lobby") == LingerOperation("a", 1, 2_000, "timeout")
    assert lingers.rest_of("a", "hall") == LingerOperation("a", 2, 3_000, "timeout")
    (linger,) = lingers.of_connection("a")
    assert (list(linger.rooms), len(lingers)) == (["lobby", "hall"], 2)


def test_what_was_updated_without_contact_is_told_of_a_member_that_lingers_already(world: Kicking) -> None:
    ann = world.connect("ann")
    ann.ask(Join("lobby", state={"n": 1}))
    bob = world.connect("bob")
    bob.ask(Join("lobby"))
    view = world.rooms.views.get("lobby")
    assert view is not None
    record = view.roster.records[ann.cid]
    ann.drop(Ending.LOST)
    bob.take()
    member = msgspec.structs.replace(record.member, state=msgspec.Raw(b'{"n":2}'), v=2)
    later, linger = (
        msgspec.structs.replace(record, member=member),
        LingerOperation(ann.cid, 1, 3_000, "timeout"),
    )
    world.rooms.endings.enter_absent("lobby", later, linger, lambda _: None)
    (diff,) = [message for message in bob.take() if isinstance(message, Diff)]
    assert [(update.cid, update.v) for update in diff.updates] == [(ann.cid, 2)]


def test_nothing_is_left_of_who_was_removed(world: Kicking, ann: Client, bob: Client) -> None:
    world.kick(ann)
    ann.drop()
    bob.drop()
    world.outlive_everything()
    assert world.leftovers() == {}
