"""What a client asks for counts when it is gathered, not when it is written: what one turn costs is bounded."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from presence_server.config.settings import LimitsSettings, RoomSettings, ThrottleSettings
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import Enter, Operation, Outcome
from presence_server.presence.roster import Delta
from presence_server.protocol import codes
from presence_server.protocol.codec import document
from presence_server.protocol.messages import (
    Error,
    Join,
    Leave,
    Members,
    Page,
    Publish,
    Published,
    SendSignal,
    Signal,
    Sync,
    Update,
)
from tests.support.recording import members_in
from tests.support.world import DAY_MS, Client, World

KIB = 1_024
SOFT_BYTES = 64 * KIB
HARD_BYTES = 1_024 * KIB
PAGE_BYTES = 48 * KIB
OVERHEAD_BYTES = KIB
ROOM = "lobby"


def crowd(world: World, members: int, state_bytes: int = 4_000, room: str = ROOM) -> set[str]:
    """Put members with large states into a room, as other nodes would, and return their cids."""
    cids = {f"bot-{number:05}" for number in range(members)}
    state = document({"pad": "x" * state_bytes})
    for cid in cids:
        enter = Enter(cid, cid, document({}), state, 1, "node-2", DAY_MS)
        world.store.carry_out(room, enter, lambda _: None)
    return cids


def is_behind(client: Client) -> bool:
    """Tell whether a client is not read from and told nothing of rosters."""
    return client.outbox.behind


def everybody(world: World, client: Client, first: Sync | Page) -> set[str]:
    """Ask for page after page, and return who is in all of them."""
    seen, cursor = set(members_in(first)), first.cursor
    while cursor is not None:
        page = client.ask(Members(ROOM, cursor=cursor, limit=1_000))
        assert isinstance(page, Page)
        assert len(msgspec.json.encode(page)) < PAGE_BYTES + OVERHEAD_BYTES
        seen |= set(members_in(page))
        cursor = page.cursor
    return seen


def test_a_sync_and_a_page_have_a_bound_in_bytes() -> None:
    world = World()
    cids = crowd(world, 300)
    zoe = world.connect("zoe")
    sync = zoe.ask(Join(ROOM))
    assert isinstance(sync, Sync)
    assert 8 < len(members_in(sync)) < 13
    assert len(msgspec.json.encode(sync)) < PAGE_BYTES + OVERHEAD_BYTES
    assert everybody(world, zoe, sync) == cids | {zoe.cid}


@pytest.mark.parametrize("state_bytes", [10, 4_000])
def test_who_joins_finds_itself_in_the_sync_however_many_there_are(state_bytes: int) -> None:
    world = World()
    cids = crowd(world, 600, state_bytes)
    for _ in range(5):
        client = world.connect()
        client.send(Join(ROOM, {"me": "x" * 1_000}, id=1))
        world.pass_ms(1_000)
        (sync,) = client.take_only(Sync)
        assert client.cid in members_in(sync)
        assert len(members_in(sync)) <= 500
        assert len(msgspec.json.encode(sync)) < PAGE_BYTES + OVERHEAD_BYTES
        assert everybody(world, client, sync) >= cids | {client.cid}


def test_a_page_costs_what_is_in_it_however_many_there_are() -> None:
    world = World(rooms=[RoomSettings(full_max=100_000)])
    crowd(world, 5_000, 10)
    client = world.connect()
    client.ask(Join(ROOM))
    (membership,) = client.session.participant.memberships.values()
    view = membership.view
    page, cursor = view.page(None, 10)
    lookups: list[str] = []
    watched = view._watched
    before = watched._batch.record_before

    class Counting:
        def record_before(self, roster: Any, cid: str) -> Any:
            lookups.append(cid)
            return before(roster, cid)

        def __bool__(self) -> bool:
            return bool(open_batch)

    open_batch = watched._batch
    watched._batch = Counting()  # type: ignore[assignment]  # an open room's batch, that counts
    page, cursor = view.page("bot-02000", 10)
    watched._batch = open_batch
    assert len(page) == 10
    assert cursor == page[-1].cid
    assert len(lookups) <= 11


def test_past_the_soft_limit_a_connection_is_not_read_from_until_its_tick_is_over() -> None:
    world = World()
    crowd(world, 100)
    client = world.connect()
    client.ask(Join(ROOM))
    assert not is_behind(client)
    heard_again = client.wire.heard_again
    client.send(Members(ROOM, id=7))
    assert not is_behind(client)
    client.send(Members(ROOM, id=8))
    assert is_behind(client)
    assert client.wire.heard_again == heard_again
    world.settle()
    assert not is_behind(client)
    assert client.wire.heard_again == heard_again + 1


def test_a_connection_that_does_not_read_is_not_read_from_after_two_pages() -> None:
    world = World()
    crowd(world, 100)
    client = world.connect(soft_bytes=SOFT_BYTES)
    client.ask(Join(ROOM))
    client.wire.stall()
    heard_again = client.wire.heard_again
    client.send(Members(ROOM, id=7), Members(ROOM, id=8))
    world.pass_ms(1_000)
    assert is_behind(client)
    assert client.wire.heard_again == heard_again
    client.wire.read_on()
    assert client.wire.heard_again == heard_again + 1
    assert [page.id for page in client.take_only(Page)] == [7, 8]


def test_who_gathers_more_than_the_hard_limit_in_one_turn_is_closed() -> None:
    world = World()
    crowd(world, 100)
    client = world.connect()
    client.ask(Join(ROOM))
    for number in range(2 * HARD_BYTES // PAGE_BYTES):
        client.send(Members(ROOM, id=number))
    world.settle()
    assert client.closed_with == codes.TOO_SLOW.code


@pytest.mark.parametrize("stalled", [False, True])
def test_joins_of_one_turn_are_answered_a_few_at_a_time(stalled: bool) -> None:
    world = World()
    crowd(world, 100)
    client = world.connect(soft_bytes=SOFT_BYTES)
    client.ask(Join(ROOM))
    if stalled:
        client.wire.stall()
    client.send(*(Join(ROOM, id=100 + number) for number in range(60)))
    if stalled:
        world.pass_ms(10_000)
        assert client.wire.unsent_bytes < 2 * PAGE_BYTES
        client.wire.read_on()
    answered: list[int] = []
    for _ in range(100):
        world.tick()
        syncs = [message for message in client.wire.take() if isinstance(message, Sync)]
        assert len(syncs) <= (4 if stalled and not answered else 2)
        answered += [sync.id for sync in syncs if isinstance(sync.id, int)]
    assert answered == [100 + number for number in range(60)]
    assert client.is_open


def test_joins_of_many_rooms_in_one_turn_are_all_answered() -> None:
    world = World()
    rooms = [f"room-{number}" for number in range(20)]
    for room in rooms:
        crowd(world, 100, room=room)
    client = world.connect()
    client.send(*(Join(room, id=number) for number, room in enumerate(rooms)))
    syncs = client.take_only(Sync)
    assert sorted(sync.room for sync in syncs) == sorted(rooms)
    assert {sync.id for sync in syncs} == set(range(len(rooms)))
    assert client.is_open


def test_joins_without_an_id_are_answered_with_one_sync() -> None:
    world = World()
    client = world.connect()
    client.ask(Join(ROOM))
    client.send(*(Join(ROOM) for _ in range(10)))
    assert len(client.take_only(Sync)) == 1


def test_who_leaves_after_joining_again_and_again_costs_no_more_than_the_hard_limit() -> None:
    world = World()
    crowd(world, 100)
    client = world.connect()
    client.ask(Join(ROOM))
    written = client.wire.encoding.encoded
    written.clear()
    client.send(*(Join(ROOM, id=number) for number in range(60)), Leave(ROOM, id=60))
    world.settle()
    assert client.closed_with == codes.TOO_SLOW.code
    assert (
        len([message for message in written if isinstance(message, Sync)])
        <= 4 / 3 * HARD_BYTES // PAGE_BYTES + 2
    )


def test_a_joiner_that_waits_for_its_sync_misses_no_message_and_no_change() -> None:
    world = World()
    crowd(world, 100)
    slow, quick = world.connect("slow", soft_bytes=SOFT_BYTES), world.connect("quick")
    quick.ask(Join("second"))
    slow.ask(Join(ROOM))
    slow.wire.stall()
    slow.send(Members(ROOM, id=1), Members(ROOM, id=3), Join("second", id=2))
    world.settle()
    quick.send(Update("second", {"x": 1}), Publish("second", data=1), Update("second", {"x": 2}))
    world.settle()
    slow.wire.read_on()
    told = [message for message in slow.take() if getattr(message, "room", None) == "second"]
    sync, message = told
    assert isinstance(sync, Sync)
    assert (sync.id, members_in(sync)[quick.cid].state) == (2, {"x": 2})
    assert isinstance(message, Published)


# --- the rate ---


def test_pages_and_syncs_take_tokens_by_their_size() -> None:
    world = World(throttle=ThrottleSettings(messages="50/1s burst 100"))
    crowd(world, 100)
    client = world.connect()
    answers: list[object] = [client.ask(Join(ROOM))]
    while not isinstance(answers[-1], Error):
        answers.append(client.ask(Members(ROOM) if len(answers) % 2 else Join(ROOM)))
    assert answers[-1].code == "throttled"
    assert 30 <= len(answers) <= 60
    world.pass_ms(400)
    assert isinstance(client.ask(Members(ROOM)), Page)


def test_small_rosters_take_no_more_than_a_token() -> None:
    world = World(throttle=ThrottleSettings(messages="50/1s burst 100"))
    client = world.connect()
    answers = [client.ask(Join(ROOM)) for _ in range(100)]
    assert all(isinstance(answer, Sync) for answer in answers)


# --- the whole node ---


def test_beyond_the_limit_of_the_node_those_with_most_unsent_go_first() -> None:
    total = 1_600_000
    world = World(limits=LimitsSettings(outbox_total_bytes=total))
    speaker = world.connect("speaker")
    speaker.ask(Join(ROOM))
    slow = [world.connect(f"slow-{number}", soft_bytes=SOFT_BYTES) for number in range(10)]
    for number, client in enumerate(slow):
        client.ask(Join(ROOM))
        client.ask(Join(f"own-{number}"))
        speaker.ask(Join(f"own-{number}"))
        client.wire.stall()
    while all(client.is_open for client in slow):
        for number in range(len(slow)):
            data = "x" * 1_000 * (number + 1)
            speaker.send(Publish(f"own-{number}", data))
        world.settle()
        assert world.hub.unsent_bytes <= total
    gone = [number for number, client in enumerate(slow) if not client.is_open]
    assert gone == list(range(min(gone), len(slow)))
    assert {slow[number].closed_with for number in gone} == {codes.TOO_SLOW.code}
    assert min(gone) > 0
    assert world.hub.unsent_bytes - sum(slow[number].wire.unsent_bytes for number in gone) < total * 0.9
    assert speaker.is_open


def test_what_is_being_closed_counts_and_goes_first() -> None:
    total = 1_000_000
    world = World(limits=LimitsSettings(outbox_total_bytes=total, outbox_hard_bytes=400_000))
    speaker, first, second = (world.connect(name, soft_bytes=500_000) for name in ("a", "b", "c"))
    for client, room in ((first, "one"), (second, "two")):
        client.ask(Join(room))
        speaker.ask(Join(room))
        client.wire.stall()
    while first.is_open:
        speaker.send(Publish("one", "x" * 10_000))
        world.settle()
    assert first.closed_with == codes.TOO_SLOW.code
    assert first.wire.unsent_bytes > 0
    while not first.wire.aborted:
        assert second.is_open
        speaker.send(Publish("two", "x" * 10_000))
        world.settle()
        assert world.hub.unsent_bytes <= total * 17 / 16
    assert second.is_open


def test_a_connection_that_is_closed_and_gone_is_forgotten() -> None:
    world = World()
    client = world.connect()
    client.ask(Join(ROOM))
    client.wire.stall()
    client.send(Members(ROOM, id=1))
    world.settle()
    client.drop()
    assert world.hub.unsent_bytes > 0
    client.wire.abort()
    world.pass_ms(1_000)
    assert world.hub.unsent_bytes == 0
    assert not world.hub._total._closed
    assert not world.hub._total.outboxes


# --- requests that wait ---


class LateStore:
    """A store that answers when it is told to."""

    def __init__(self, store: PresenceMemoryStore) -> None:
        self._store = store
        self._answers: list[Callable[[], None]] = []

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        self._store.carry_out(room, operation, lambda outcome: self._answers.append(lambda: done(outcome)))

    def snapshot(self, room: str, done: Callable[[Any], None]) -> None:
        self._store.snapshot(room, done)

    def note_delta(self, room: str, delta: Delta) -> None:
        self._store.note_delta(room, delta)

    def answer(self) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer()


def test_requests_that_wait_for_the_store_are_bounded_in_bytes() -> None:
    world = World()
    late = LateStore(world.store)
    world.rooms.memberships._store = late  # type: ignore[assignment]  # a store, whose answers wait
    client, other = world.connect(), world.connect()
    other.send(Join(ROOM))
    late.answer()
    client.send(Join(ROOM))
    sent = 0
    while not is_behind(client):
        client.send(Publish(ROOM, "x" * 10_000))
        sent += 1
    assert sent == 7
    heard_again = client.wire.heard_again
    late.answer()
    world.settle()
    assert client.wire.heard_again > heard_again
    assert not is_behind(client)
    assert client.outbox.requests_bytes == 0
    assert len(other.take_only(Published)) == sent


def test_requests_that_are_under_way_to_the_store_are_bounded_in_bytes() -> None:
    world = World(shared=True)
    late = LateStore(world.store)
    world.rooms.memberships._store = late  # type: ignore[assignment]  # a store, whose answers wait
    client = world.connect()
    client.send(Join(ROOM))
    late.answer()
    assert client.outbox.requests_bytes == 0
    sent = 0
    while not is_behind(client):
        client.send(Update(ROOM, {"pad": "x" * 3_000}))
        sent += 1
    assert sent == 64 * KIB // (3_010 + 512) + 1
    late.answer()
    world.settle()
    assert not is_behind(client)
    assert client.outbox.requests_bytes == 0
    client.send(Leave(ROOM))
    client.drop()
    late.answer()


def test_requests_that_wait_when_their_connection_ends_do_nothing() -> None:
    world = World()
    late = LateStore(world.store)
    world.rooms.memberships._store = late  # type: ignore[assignment]  # a store, whose answers wait
    client, other = world.connect(), world.connect()
    other.send(Join(ROOM))
    late.answer()
    client.send(Join(ROOM), Publish(ROOM, 1))
    client.drop()
    late.answer()
    assert other.take_only(Published) == []


# --- too much to do ---


def test_signals_are_dropped_while_there_is_too_much_to_do_and_messages_are_not() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join(ROOM))
    bob.ask(Join(ROOM))
    for overloaded in (True, False):
        world.overloaded = overloaded
        ann.send(SendSignal(ROOM, "key", 1), Publish(ROOM, 1))
        told = [type(message) for message in bob.take() if isinstance(message, Signal | Published)]
        assert told == ([Published] if overloaded else [Signal, Published])


def test_members_that_a_node_enters_again_do_not_count_for_their_connections() -> None:
    world = World(shared=True)
    client = world.connect()
    client.send(Join(ROOM))
    late = LateStore(world.store)
    world.rooms.memberships._store = late  # type: ignore[assignment]  # a store, whose answers wait
    outcomes: list[Outcome] = []
    for membership in client.session.participant.memberships.values():
        world.rooms.memberships.enter_again(membership, outcomes.append)
    assert client.outbox.requests_bytes == 0
    late.answer()
    assert len(outcomes) == 1
