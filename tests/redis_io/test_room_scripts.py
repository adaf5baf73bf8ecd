"""What the scripts of a room see to on a real server: its time, its keys, its channel."""

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from presence_server.presence import script_calls
from presence_server.presence.operations import Beat, Enter, Leave, Linger, Operation, Outcome, Sent
from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.redis import SCRIPTS
from presence_server.presence.roster import Roster
from presence_server.protocol.codec import document
from presence_server.redis_io.keys import Keys
from tests.support.redis_server import DEADLINE_S, RedisServer

ROOM = "lobby"
KEYS = Keys("ps")
TTL_MS = 60_000
LONG_MS = 30_000
LATE_MS = 15_000
HOLD_MS = 20_000
HEARD = b"heard up to here"
AT_ONE_MOMENT = """
local left = {}
for i, key in ipairs(KEYS) do left[i] = redis.call('PTTL', key) end
return left
"""
"""How long keys still have, as a script sees it: to it no time passes."""


def now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds * 1_000 + micros // 1_000)


def told(payload: bytes) -> script_calls.DeltaOnChannel:
    """Decode what a script published."""
    return msgspec.msgpack.decode(payload[1:], type=script_calls.DeltaOnChannel)


class Room:
    """One room on a real server, by its scripts."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client = redis.Redis.from_url(server.url)
        self.client.flushall()
        self.heard = self.client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
        self.heard.subscribe(KEYS.channel(ROOM))
        assert self.heard.get_message(timeout=DEADLINE_S) is not None, "it is not subscribed"
        self.roster = Roster()
        self.seqs: list[int] = []

    def close(self) -> None:
        self.heard.close()
        self.client.close()

    def hear(self) -> list[bytes]:
        """Return the deltas that were published on the room's channel since the last time."""
        self.client.publish(KEYS.channel(ROOM), HEARD)
        said: list[bytes] = []
        while True:
            message = self.heard.get_message(timeout=DEADLINE_S)
            assert message is not None, "what was published does not arrive"
            if message["data"] == HEARD:
                return said
            said.append(message["data"])

    def call(self, verb: str, rows: list[Any], *, hold_ms: int = 0) -> script_calls.ScriptAnswer:
        """Call a script that answers no more than every script does."""
        return script_calls.decode_answer(self.eval(verb, rows, hold_ms=hold_ms))

    def eval(self, verb: str, rows: list[Any], *, hold_ms: int = 0) -> Any:
        sent = Sent(now_ms(self.client), LATE_MS, HOLD_MS, hold_ms)
        arguments = script_calls.arguments(KEYS.channel(ROOM), "77", TTL_MS, sent, rows)
        answered = self.client.eval(SCRIPTS[verb].text, 6, *KEYS.room(ROOM), *arguments)
        pipe = self.client.pipeline()
        for key in KEYS.room(ROOM):
            pipe.pttl(key)
        assert -1 not in pipe.execute(), "a key without a TTL"
        return answered

    def page(self, limit: int = 1_000, cursor: str = FIRST_PAGE) -> script_calls.PageAnswer:
        row = script_calls.page_row(cursor, limit, bytes_max=1_000_000)
        return script_calls.page_answer(self.eval("page", [row]))

    def carry_out(self, operation: Operation) -> Outcome:
        packed = script_calls.pack(operation)
        answer = self.call(packed.verb, packed.rows)
        self.listen()
        return script_calls.outcome(operation, answer, answer.results)

    def listen(self) -> None:
        """Follow the channel, as a node does."""
        for said in self.hear():
            delta = script_calls.delta(told(said))
            if delta.joins or delta.updates or delta.leaves:
                self.seqs.append(delta.seq)
            self.roster.apply(delta)

    def members(self) -> dict[str, tuple[Any, ...]]:
        return {
            member.cid: (
                member.user,
                script_calls.text(member.info),
                script_calls.text(member.state),
                member.v,
                epoch,
            )
            for member, epoch, _ in map(msgspec.structs.astuple, self.page().records)
        }


@pytest.fixture
def room(shared_server: RedisServer) -> Iterator[Room]:
    room = Room(shared_server)
    yield room
    room.close()


def enter(cid: str, *, ttl_ms: int = LONG_MS, epoch: int = 1, state: Any = None) -> Enter:
    return Enter(cid, f"user-{cid}", document({}), state, epoch, "node-1", ttl_ms)


def wait(room: Room, ms: int) -> None:
    """Let the server's own time pass."""
    until_ms = now_ms(room.client) + ms
    while now_ms(room.client) <= until_ms:
        pass


def test_who_expires_is_announced_once_by_the_next_call(room: Room) -> None:
    room.carry_out(enter("a", ttl_ms=20))
    wait(room, 20)
    assert room.members() == {}
    room.carry_out(enter("b"))
    room.carry_out(enter("c"))
    assert set(room.roster.records) == {"b", "c"}
    assert room.seqs == [1, 2, 3]


def test_the_members_of_a_call_are_exempt_from_its_eviction_and_announced_again(room: Room) -> None:
    room.carry_out(enter("a", ttl_ms=20))
    wait(room, 20)
    room.carry_out(Beat({"a": 1}, TTL_MS))
    assert set(room.members()) == {"a"}
    assert room.seqs == [1, 2]


def test_a_sweep_evicts_a_hundred_at_a_time(room: Room) -> None:
    for i in range(0, 250, 50):
        room.call("enter", [script_calls.pack(enter(f"m{n}")).rows[0] for n in range(i, i + 50)])
    room.client.zadd(KEYS.room(ROOM)[0], {f"m{n}": 1_000 + n for n in range(250)})
    sizes = []
    for _ in range(3):
        room.call("sweep", [])
        room.listen()
        sizes.append(len(room.roster.records))
    assert sizes == [150, 50, 0]
    assert room.roster.users == {}


def test_who_is_exempt_and_not_due_does_not_let_a_call_evict_more(room: Room) -> None:
    for i in range(0, 150, 50):
        room.call("enter", [script_calls.pack(enter(f"m{n}")).rows[0] for n in range(i, i + 50)])
    room.client.zadd(KEYS.room(ROOM)[0], {f"m{n}": 1_000 + n for n in range(140)})
    room.call("beat", [script_calls.pack(Beat({f"m{n}": 1}, TTL_MS)).rows[0] for n in range(140, 150)])
    room.listen()
    assert len(room.roster.records) == 50


def test_who_enters_again_takes_the_place_of_what_another_version_wrote(room: Room) -> None:
    room.carry_out(enter("a", state=document({"old": 1})))
    written_as, user, epoch, *_ = msgspec.msgpack.decode(room.server.ask("HGET", KEYS.room(ROOM)[1], "a"))
    others = msgspec.msgpack.encode([written_as + 1, user, epoch, {"of": "another version"}])
    room.client.hset(KEYS.room(ROOM)[1], "a", others)
    room.carry_out(enter("a", epoch=2))
    user, _, state, _, epoch = room.members()["a"]
    assert (user, state, epoch) == ("user-a", "{}", 2)
    assert room.call("counts", []).results == [1, 1]


def test_while_a_room_holds_nobody_is_evicted(room: Room) -> None:
    room.carry_out(enter("a", ttl_ms=20))
    wait(room, 20)
    room.call("enter", script_calls.pack(enter("b")).rows, hold_ms=10_000)
    assert set(room.members()) == {"a", "b"}
    room.call("sweep", [])
    assert set(room.members()) == {"a", "b"}


def test_a_linger_brings_the_due_time_forward_and_says_so(room: Room) -> None:
    room.carry_out(enter("a"))
    room.call("linger", script_calls.pack(Linger("a", 1, 500, "closed")).rows)
    due_ms = [told(payload).due for payload in room.hear() if payload[:1] == b"d"]
    assert min(due_ms) <= now_ms(room.client) + 500, "nobody is told that somebody may expire sooner"


def test_deltas_are_split_at_32_kib_each_with_its_own_seq(room: Room) -> None:
    state = document({"text": "x" * 4_000})
    room.call("enter", [script_calls.pack(enter(f"m{n}", state=state)).rows[0] for n in range(30)])
    deltas = room.hear()
    for delta in deltas:
        room.roster.apply(script_calls.delta(told(delta)))
    assert len(deltas) >= 4
    assert max(map(len, deltas)) < 40_000
    assert len(room.roster.records) == 30


@pytest.mark.parametrize(("beyond", "deltas"), [(0, 1), (1, 2)])
def test_a_delta_is_full_beyond_32_kib_of_what_was_written_with_64_for_each_entry(
    room: Room, beyond: int, deltas: int
) -> None:
    first, second = enter("a"), enter("b")
    spare = 32_768 - 2 * 64 - len(bytes(first.info)) - len(bytes(second.info)) - len(b"{}")
    state = document("x" * (spare - len(document("")) + beyond))
    rows = [
        script_calls.pack(enter("a", state=document({}))).rows[0],
        script_calls.pack(enter("b", state=state)).rows[0],
    ]
    room.call("enter", [*rows, script_calls.pack(enter("c")).rows[0]])
    assert len(room.hear()) == deltas


def test_a_fence_is_over_at_its_very_end(room: Room) -> None:
    """There are fences that end in each ms from now on, so that one of them does when the script runs."""
    span_ms, deadline_s = 500, time.monotonic() + DEADLINE_S
    while True:
        room.client.flushall()
        begin_ms = now_ms(room.client)
        fences = {f"c{ms}": msgspec.msgpack.encode([2, begin_ms + ms, False]) for ms in range(span_ms)}
        room.client.hset(KEYS.room(ROOM)[4], mapping=fences)  # type: ignore[arg-type]  # redis-py: bytes are fine
        answer = room.call("enter", [script_calls.pack(enter(cid)).rows[0] for cid in fences])
        if begin_ms <= answer.now < begin_ms + span_ms:
            break
        assert time.monotonic() < deadline_s
    fenced = [result == "fenced" for result in answer.results]
    assert fenced == [begin_ms + ms > answer.now for ms in range(span_ms)]


def test_no_key_is_left_after_everybody_has_left_and_time_has_passed(room: Room) -> None:
    room.carry_out(enter("a"))
    room.carry_out(Leave("a", 1, "left"))
    keys = room.server.room_keys()
    assert all(0 < room.server.ask("PTTL", key) <= 2 * TTL_MS for key in keys)


def test_a_sweep_counts_the_users_anew_once_a_ttl(room: Room) -> None:
    room.carry_out(enter("a"))
    room.carry_out(enter("b"))
    expiry, members, users, meta, *_ = KEYS.room(ROOM)
    room.client.hset(users, mapping={"user-a": 7, "nobody": 1})
    room.client.hdel(users, "user-b")
    room.call("sweep", [])
    assert room.client.hgetall(users) == {b"user-a": b"1", b"user-b": b"1"}
    numbers = told(room.hear()[-1])
    assert (numbers.count, numbers.users) == (2, 2)
    room.client.hset(users, "nobody", 1)
    room.call("sweep", [])
    assert room.client.hlen(users) == 3, "it is not done at every sweep"
    room.client.hdel(meta, "checked")
    room.call("beat", [("a", 1)])  # an occupied room is not swept
    assert room.client.hlen(users) == 2
    assert room.client.zcard(expiry) == room.client.hlen(members) == 2


def test_a_generation_comes_from_the_caller(room: Room) -> None:
    assert room.call("enter", script_calls.pack(enter("a")).rows).generation == "77"


def test_all_keys_of_a_room_end_together_after_its_last_member(room: Room) -> None:
    room.carry_out(enter("a", ttl_ms=LONG_MS, epoch=2))
    room.carry_out(enter("b", ttl_ms=2 * LONG_MS))
    keys = room.server.room_keys()
    left = room.server.ask("EVAL", AT_ONE_MOMENT, len(keys), *keys)
    assert max(left) - min(left) < 1_000, "on Redis 7.0 time moves while a script sets them"
    assert 2 * TTL_MS < min(left) <= max(left) <= 2 * LONG_MS + 2 * TTL_MS
