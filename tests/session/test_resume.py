"""How connections end, and how they go on."""

import pytest

from presence_server.auth.identity import Identity
from presence_server.protocol import codes
from presence_server.protocol.codec import JSON, MSGPACK, document
from presence_server.protocol.codes import CLOSE_CODES, CloseCode, Ending, ending, ending_by_client
from presence_server.protocol.messages import (
    Bye,
    Diff,
    Join,
    Leave,
    Ok,
    Publish,
    Published,
    Sync,
    Update,
    Watch,
)
from tests.support.recording import LengthPrefixed, RecordingWire, members_in
from tests.support.world import Client, World

CLEAN_MS, LOST_MS = 3_000, 15_000


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def bob(world: World) -> Client:
    bob = world.connect("bob")
    bob.ask(Watch("lobby"))
    return bob


@pytest.fixture
def ann(world: World, bob: Client) -> Client:
    ann = world.connect("ann", {"name": "Ann"})
    ann.ask(Join("lobby", state={"x": 1}))
    bob.take()
    return ann


GONE_AFTER_MS = {
    Ending.KICKED: (0, "kicked"),
    Ending.CLOSED: (0, "closed"),
    Ending.CLEAN: (CLEAN_MS, "closed"),
    Ending.LOST: (LOST_MS, "timeout"),
}


@pytest.mark.parametrize(
    "code",
    [code for code in CLOSE_CODES.values() if code is not codes.REPLACED],
    ids=lambda code: str(code.code),
)
def test_a_close_code_decides_how_long_the_member_stays(
    world: World, ann: Client, bob: Client, code: CloseCode
) -> None:
    ann.wire.close(code)
    ms, reason = GONE_AFTER_MS[ending(code.code)]
    if ms:
        world.pass_ms(ms - 1)
        assert bob.take() == []
        world.pass_ms(251)
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.user, left.reason) for left in diff.leaves] == [(ann.cid, "ann", reason)]


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1002, 4003, 4008, 4009, 4010, 4200, 3000, 4999])
def test_a_client_cannot_choose_more_than_to_have_left(code: int) -> None:
    assert ending_by_client(code) is (Ending.CLEAN if code in {1000, 1001, 1005} else Ending.LOST)


def test_a_reconnect_within_grace_is_no_event(world: World, ann: Client, bob: Client) -> None:
    before = world.roster("lobby")
    ann.drop(Ending.LOST)
    world.pass_ms(LOST_MS - 1)
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    assert (again.cid, again.welcome.resumed) == (ann.cid, True)
    sync = again.ask(Join("lobby", state={"x": 1}))
    assert isinstance(sync, Sync)
    assert members_in(sync) == before
    world.pass_ms(5 * LOST_MS)
    assert bob.take() == []


def test_a_membership_that_ended_meanwhile_is_a_join(world: World, ann: Client, bob: Client) -> None:
    ann.drop(Ending.LOST)
    world.pass_ms(LOST_MS + 250)
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    assert (again.cid, again.welcome.resumed) == (ann.cid, True)
    again.ask(Join("lobby"))
    left, joined = bob.take_only(Diff)
    assert [entry.cid for entry in left.leaves] == [ann.cid]
    assert [(member.cid, member.v) for member in joined.joins] == [(ann.cid, 1)]


def test_a_resume_takes_over_from_a_connection_that_lives(world: World, ann: Client, bob: Client) -> None:
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    assert ann.closed_with == 4010
    bye = ann.take()[-1]
    assert isinstance(bye, Bye)
    assert bye.code == 4010
    again.ask(Join("lobby"))
    world.pass_ms(5 * LOST_MS)
    assert bob.take() == []
    assert set(world.roster("lobby")) == {ann.cid}


def test_of_two_connections_with_one_token_the_later_wins(world: World, ann: Client, bob: Client) -> None:
    ann.drop(Ending.LOST)
    first = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    first.ask(Join("lobby"))
    second = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    assert (first.closed_with, first.cid, second.cid) == (4010, ann.cid, ann.cid)
    second.ask(Join("lobby"))
    assert isinstance(second.ask(Update("lobby", {"x": 2})), Ok)
    world.pass_ms(5 * LOST_MS)
    diffs = bob.take_only(Diff)
    assert [len(diff.joins) + len(diff.leaves) for diff in diffs] == [0]
    assert [update.v for update in diffs[0].updates] == [2]


def test_a_resume_whose_client_has_given_up_closes_nobody(world: World, ann: Client) -> None:
    opened: list[object] = []
    gone = world.hub.new_outbox(LengthPrefixed(JSON), RecordingWire(LengthPrefixed(JSON)))
    gone.detach_wire()
    world.directory.open_session(Identity("ann", document({})), ann.resume, gone, opened.append)
    assert (opened, ann.is_open) == ([], True)
    assert isinstance(ann.ask(Update("lobby", {"x": 2})), Ok)


def test_a_chain_of_resumes_is_one_membership(world: World, ann: Client, bob: Client) -> None:
    last = ann
    for n in range(10):
        last.drop(Ending.LOST if n % 2 else Ending.CLEAN)
        world.pass_ms(1_000)
        last = world.connect("ann", {"name": "Ann"}, resume=last.resume)
        last.ask(Join("lobby"))
    assert bob.take() == []
    assert last.session.participant.epoch == 11


def test_a_resumed_connection_can_be_dropped_and_ends(world: World, ann: Client, bob: Client) -> None:
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    again.ask(Join("lobby"))
    again.drop(Ending.CLEAN)
    world.pass_ms(CLEAN_MS + 250)
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.reason) for left in diff.leaves] == [(ann.cid, "closed")]


def test_a_room_that_is_not_joined_again_ends_with_its_ttl(world: World, ann: Client, bob: Client) -> None:
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    world.pass_ms(world.presence.ttl_ms + 250)
    (diff,) = bob.take_only(Diff)
    assert [left.reason for left in diff.leaves] == ["timeout"]
    assert again.is_open


def test_other_info_after_a_resume_replaces_the_member(world: World, ann: Client, bob: Client) -> None:
    at = world.roster("lobby")[ann.cid].at
    ann.drop()
    world.pass_ms(1_000)
    again = world.connect("ann", {"name": "Anna"}, resume=ann.resume)
    again.ask(Join("lobby"))
    (diff,) = bob.take_only(Diff)
    (member,) = diff.joins
    assert (member.cid, member.info, member.v, member.at) == (ann.cid, {"name": "Anna"}, 1, at)
    assert (diff.leaves, diff.count) == ((), 1)


def test_a_new_state_after_a_resume_is_an_update(world: World, ann: Client, bob: Client) -> None:
    ann.drop()
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    again.ask(Join("lobby", state={"x": 2}))
    (diff,) = bob.take_only(Diff)
    assert [(update.v, update.state) for update in diff.updates] == [(2, {"x": 2})]
    assert (diff.joins, diff.leaves) == ((), ())


def test_a_resume_may_come_with_another_encoding_and_mode(world: World, ann: Client) -> None:
    ann.drop()
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume, codec=MSGPACK)
    sync = again.ask(Join("lobby", mode="count"))
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.count, sync.you) == ("count", 1, True)


def test_messages_go_on_after_a_resume(world: World, ann: Client, bob: Client) -> None:
    again = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    again.ask(Join("lobby"))
    again.ask(Publish("lobby", data=1))
    bob.ask(Publish("lobby", data=2))
    assert [message.data for message in bob.take_only(Published)] == [1]
    assert [message.data for message in again.take_only(Published)] == [2]


def test_another_users_token_is_a_new_cid(world: World, ann: Client) -> None:
    mallory = world.connect("mallory", resume=ann.resume)
    assert not mallory.welcome.resumed
    assert mallory.cid != ann.cid
    assert ann.is_open


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_a_bad_token_is_a_new_cid(world: World, ann: Client, token: str) -> None:
    other = world.connect("ann", resume=token)
    assert not other.welcome.resumed
    assert other.cid != ann.cid


def test_an_expired_token_is_a_new_cid(world: World, ann: Client) -> None:
    world.clock.move(world.presence.resume_ms)
    other = world.connect("ann", resume=ann.resume)
    assert not other.welcome.resumed


def test_who_was_kicked_is_gone_at_once_and_may_return_by_a_new_join(
    world: World, ann: Client, bob: Client
) -> None:
    ann.wire.close(codes.KICKED)
    assert [left.reason for left in bob.take_only(Diff)[0].leaves] == ["kicked"]
    again = world.connect("ann", {"name": "Ann"})
    again.ask(Join("lobby"))
    assert [member.cid for member in bob.take_only(Diff)[0].joins] == [again.cid]


def test_leaving_before_dropping_leaves_nothing_to_end(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Leave("lobby"))
    bob.take()
    ann.drop()
    world.pass_ms(LOST_MS + 250)
    assert bob.take() == []


def test_ending_twice_is_ending_once(world: World, ann: Client, bob: Client) -> None:
    ann.drop(Ending.CLEAN)
    ann.session.leave_all_rooms(Ending.KICKED)
    world.settle()
    assert bob.take() == []


def test_nothing_is_left_of_a_chain_of_resumes(world: World, ann: Client, bob: Client) -> None:
    first = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    second = world.connect("ann", {"name": "Ann"}, resume=ann.resume)
    assert len(world.directory) == 2
    second.ask(Join("lobby"))
    for client in (first, second, bob):
        client.drop()
    world.outlive_everything()
    assert world.leftovers() == {}
