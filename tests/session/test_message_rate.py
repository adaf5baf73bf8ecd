"""What a connection and a user may send, however it is put."""

import msgpack

from presence_server.config.settings import LimitsSettings, ThrottleSettings
from presence_server.presence.operations import Enter
from presence_server.protocol.codec import JSON, MSGPACK, Codec, document
from presence_server.protocol.messages import (
    Error,
    Join,
    Leave,
    Members,
    Ok,
    Page,
    Publish,
    SendSignal,
    Sync,
    Update,
    Watch,
)
from presence_server.rooms.participant import STRIKES_MAX
from presence_server.throttle import Limiter, Rule
from tests.support.world import DAY_MS, World

NONSENSE = b'{"t":"nonsense"}'


def limited(updates: int) -> World:
    return World(limiter=Limiter(rules=[Rule("updates", f"{updates}/60s")]))


def test_a_join_that_changes_the_state_is_an_update_to_the_limiter() -> None:
    world = limited(2)
    ann = world.connect("ann")
    assert isinstance(ann.ask(Join("lobby", {"n": 0})), Sync)
    for n in (1, 2):
        assert isinstance(ann.ask(Join("lobby", {"n": n})), Sync)
    refused = ann.ask(Join("lobby", {"n": 3}))
    assert isinstance(refused, Error)
    assert refused.code == "throttled"
    assert world.roster("lobby")[ann.cid].state == {"n": 2}
    assert isinstance(ann.ask(Update("lobby", {"n": 4})), Error)


def test_a_join_that_changes_nothing_is_no_update_to_the_limiter() -> None:
    ann = limited(1).connect("ann")
    for _ in range(3):
        assert isinstance(ann.ask(Join("lobby", {"n": 0})), Sync)
        assert isinstance(ann.ask(Join("lobby")), Sync)
        assert isinstance(ann.ask(Leave("lobby")), Ok)


def test_what_is_no_message_takes_a_token_like_one() -> None:
    world = World(throttle=ThrottleSettings(messages="10/1s"))
    ann = world.connect("ann")
    for _ in range(10):
        ann.send_bytes(NONSENSE)
    assert {error.code for error in ann.take_only(Error)} == {"unknown_type"}
    for _ in range(STRIKES_MAX):
        ann.send_bytes(NONSENSE)
    assert {error.code for error in ann.take_only(Error)} == {"throttled"}
    assert ann.closed_with == 4008


def test_data_is_no_longer_as_json_than_a_message_may_be() -> None:
    world = World(limits=LimitsSettings(message_bytes=1_000))
    ann, bob = world.connect("ann", codec=MSGPACK), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("lobby"))
    for data, fits in (("\0" * 166, True), ("\0" * 167, False), ([1.5] * 199, True), ("é" * 500, False)):
        for request in (Publish("lobby", data), SendSignal("lobby", "key", data)):
            bob.take()
            payload = msgpack.packb({"id": 7, **request_fields(request)})
            assert isinstance(payload, bytes)
            assert len(payload) < 2_500
            ann.send_bytes(payload)
            errors = [error.code for error in ann.take_only(Error)]
            assert errors == ([] if fits else ["too_large"])
            heard = [message for message in bob.take() if not isinstance(message, Sync)]
            assert len(heard) == (1 if fits else 0)


def request_fields(request: Publish | SendSignal) -> dict[str, object]:
    fields = {"t": "publish", "room": request.room, "data": request.data}
    return fields if isinstance(request, Publish) else {**fields, "t": "signal", "key": request.key}


def pages_within_the_rate(codec: Codec, state: object) -> int:
    """Return how many pages of 62 such states a client may ask for at once."""
    world = World(throttle=ThrottleSettings(messages="50/1s burst 1000"))
    for number in range(62):
        enter = Enter(f"bot-{number}", "bot", document({}), document(state), 1, "node-2", DAY_MS)
        world.store.carry_out("lobby", enter, lambda _: None)
    ann = world.connect("ann", codec=codec)
    ann.ask(Watch("lobby", "none"))
    pages = 0
    while isinstance(ann.ask(Members("lobby")), Page):
        pages += 1
    return pages


def test_a_page_of_many_items_takes_more_tokens_as_messagepack_which_takes_longer_to_make() -> None:
    dense, flat = [1] * 1_900, "x" * 3_800
    assert pages_within_the_rate(JSON, dense) == pages_within_the_rate(JSON, flat)
    assert pages_within_the_rate(MSGPACK, flat) > 3 * pages_within_the_rate(MSGPACK, dense)
