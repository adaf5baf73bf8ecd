"""One connection's conversation: welcome, replies, strikes, renewal."""

import pytest

from presence_server.protocol.codec import JSON, MSGPACK, Codec
from presence_server.protocol.messages import (
    Auth,
    Bye,
    Error,
    Join,
    Ping,
    Pong,
    Publish,
    Published,
    Resume,
    Sync,
    Watch,
)
from presence_server.rooms.participant import STRIKES_MAX, STRIKES_WITHIN_MS
from tests.support.world import Client, World

NONSENSE = b'{"t":"join"}'


@pytest.fixture
def world() -> World:
    return World()


def test_the_welcome_says_who_one_is_and_what_holds(world: World) -> None:
    welcome = world.connect("ann", {"name": "Ann"}).welcome
    assert (welcome.user, welcome.info, welcome.resumed) == ("ann", {"name": "Ann"}, False)
    assert (welcome.node, welcome.ping_ms) == (world.node, 15_000)
    assert welcome.time == world.clock.wall_ms()
    assert welcome.limits == {
        "message_bytes": 16_384,
        "state_bytes": 4_096,
        "info_bytes": 1_024,
        "rooms": 100,
    }


def test_every_connection_has_its_own_cid(world: World) -> None:
    assert len({world.connect("ann").cid for _ in range(100)}) == 100


def test_a_ping_is_answered_with_the_time(world: World) -> None:
    ann = world.connect()
    assert ann.ask(Ping()) == Pong(world.clock.wall_ms(), id=1)
    ann.send(Ping())
    assert ann.take() == [Pong(world.clock.wall_ms())]


def test_nobody_can_renew_credentials_where_there_are_none(world: World) -> None:
    answer = world.connect().ask(Auth("a token"))
    assert isinstance(answer, Error)
    assert answer.code == "unauthorized"


@pytest.mark.parametrize("sender", [JSON, MSGPACK])
@pytest.mark.parametrize("receiver", [JSON, MSGPACK])
def test_both_encodings_meet_in_one_room(world: World, sender: Codec, receiver: Codec) -> None:
    ann, bob = world.connect("ann", codec=sender), world.connect("bob", codec=receiver)
    bob.ask(Join("lobby"))
    ann.ask(Join("lobby", state={"x": [1, 2.5, None, True, "\u00e9"]}))
    bob.take()
    ann.ask(Publish("lobby", data={"deep": [{"x": -1}]}))
    assert [message.data for message in bob.take_only(Published)] == [{"deep": [{"x": -1}]}]


def strike(client: Client, times: int) -> None:
    for _ in range(times):
        client.send_bytes(NONSENSE)


def test_one_strike_less_than_too_many_is_borne(world: World) -> None:
    ann = world.connect()
    strike(ann, STRIKES_MAX - 1)
    assert [error.code for error in ann.take_only(Error)] == ["bad_message"] * (STRIKES_MAX - 1)
    assert ann.is_open


def test_who_keeps_being_refused_is_closed_for_abuse(world: World) -> None:
    ann = world.connect()
    ann.ask(Join("lobby"))
    strike(ann, STRIKES_MAX)
    assert ann.closed_with == 4008
    *errors, bye = ann.take()
    assert len(errors) == STRIKES_MAX
    assert isinstance(bye, Bye)
    assert bye.code == 4008
    assert world.roster("lobby") == {}


def test_strikes_are_forgotten_after_their_time(world: World) -> None:
    ann = world.connect()
    for _ in range(20):
        strike(ann, STRIKES_MAX - 1)
        world.clock.move(STRIKES_WITHIN_MS + 1)
    assert ann.is_open


def test_strikes_count_within_any_stretch_of_time(world: World) -> None:
    ann = world.connect()
    strike(ann, 1)
    world.clock.move(STRIKES_WITHIN_MS)
    strike(ann, STRIKES_MAX - 2)
    assert ann.is_open
    strike(ann, 1)
    assert ann.closed_with == 4008


def test_other_refusals_are_no_strikes(world: World) -> None:
    ann = world.connect()
    for _ in range(3 * STRIKES_MAX):
        ann.ask(Publish("nowhere", data=1))
        ann.send_bytes(b'{"t":"future"}')
        ann.ask(Join("not a room"))
    assert ann.is_open


def test_a_fault_in_one_request_is_answered_and_the_connection_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = world.connect()
    ann.ask(Join("lobby"))

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.bus, "publish", fails)
    answer = ann.ask(Publish("lobby", data=1))
    assert isinstance(answer, Error)
    assert answer.code == "internal"
    assert isinstance(ann.ask(Watch("lobby")), Sync)


def test_a_resume_token_is_renewed_at_half_its_life(world: World) -> None:
    ann = world.connect()
    world.clock.move(world.presence.resume_ms // 2 - 1)
    ann.session.renew_token()
    assert ann.take() == []
    world.clock.move(1)
    ann.session.renew_token()
    (renewed,) = ann.take()
    assert isinstance(renewed, Resume)
    assert renewed.resume != ann.resume
    ann.session.renew_token()
    assert ann.take() == []
    world.clock.move(world.presence.resume_ms // 2)
    ann.drop()
    assert not world.connect("ann", resume=ann.resume).welcome.resumed
    assert world.connect("ann", resume=renewed.resume).cid == ann.cid
