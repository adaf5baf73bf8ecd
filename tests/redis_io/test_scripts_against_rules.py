"""The scripts and the pure rules are one set: the same calls get the same answers and say the same, on every server.

The server's TIME is replaced, so that it passes, jumps and steps back as a test draws it; nothing else is.
"""

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
import redis
from hypothesis import given

from presence_server.presence import script_calls
from presence_server.presence.operations import Beat, Enter, Leave, Linger, Operation, Sent
from presence_server.presence.redis import SCRIPTS
from presence_server.presence.roster import LEASE_NODE, Change
from presence_server.protocol.codec import document
from presence_server.redis_io.keys import Keys
from tests.simulation.keyspace import Keyspace
from tests.simulation.room_scripts import run_room_script
from tests.support.properties import examples
from tests.support.redis_server import DEADLINE_S, RedisServer

if TYPE_CHECKING:
    from presence_server.presence.state import RoomState

ROOM = "lobby"
KEYS = Keys("ps")
TTL_MS = 60_000
GRACE_MS = 3_000
LATE_MS = 15_000
HOLD_MS = 20_000
BEGIN_MS = 1_800_000_000_000
GENERATION = 77
HEARD = b"heard up to here"
TIME = "redis.call('TIME')"
DRAWN_TIME = (
    "{ string.format('%.0f', math.floor(ARGV[11] / 1000)), string.format('%.0f', ARGV[11] % 1000 * 1000) }"
)


class Rooms:
    """One room twice: on a real server by its scripts, and by the rules."""

    def __init__(self, server: RedisServer) -> None:
        self.rules = Keyspace()
        self.now_ms = BEGIN_MS
        self.client = redis.Redis.from_url(server.url)
        self.client.flushall()
        self.channel = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
        self.channel.subscribe(KEYS.channel(ROOM))
        self.heard()

    def close(self) -> None:
        self.channel.close()
        self.client.close()

    def heard(self) -> list[Any]:
        """Return what has been published since the last call."""
        self.client.publish(KEYS.channel(ROOM), HEARD)
        found: list[Any] = []
        while True:
            message = self.channel.get_message(timeout=DEADLINE_S)
            if message is None:
                assert not self.channel.subscribed or found == [], "what was published does not arrive"
                continue
            if message["data"] == HEARD:
                return found
            found.append(message["data"])

    def call(self, verb: str, rows: list[Any], sent: Sent) -> None:
        """Make a call both ways, and compare all that comes of it. The keys of neither end meanwhile."""
        arguments = script_calls.arguments(KEYS.channel(ROOM), str(GENERATION), TTL_MS, sent, rows)
        text = SCRIPTS[verb].text
        assert text.count(TIME) == 1, "the script asks for the time more or less than once"
        drawn = text.replace(TIME, DRAWN_TIME)
        answered: Any = self.client.eval(drawn, 6, *KEYS.room(ROOM), *arguments, self.now_ms)
        payloads: list[bytes] = []

        def publish(_: str, payload: bytes) -> int:
            payloads.append(payload)
            return 1

        self.rules.now_ms = self.now_ms
        expected = run_room_script(verb, KEYS.room(ROOM), arguments, self.rules, publish)
        for key in self.rules.ttls():
            # No key of the server expires, either: its own clock stands still.
            self.rules.set(key, self.rules.get(key))
        assert answer(verb, answered) == answer(verb, expected), (verb, rows)
        assert [said(payload) for payload in self.heard()] == [said(payload) for payload in payloads], (
            verb,
            rows,
        )
        self.compare_keys()

    def compare_keys(self) -> None:
        """Compare the keys with what the rules hold, and see that each has its TTL."""
        expiry, members, users, _, _, lingers = KEYS.room(ROOM)
        pipe = self.client.pipeline()
        pipe.zrange(expiry, 0, -1, withscores=True)
        pipe.hlen(members)
        pipe.hgetall(users)
        pipe.hgetall(lingers)
        for key in KEYS.room(ROOM):
            pipe.pttl(key)
        scores, member_count, user_counts, reasons, *ttls = pipe.execute()
        assert -1 not in ttls, "a key without a TTL"
        state: RoomState | None = self.rules.get(expiry)
        assert (state is None) == (set(ttls) == {-2})
        if state is None:
            return
        deadlines = {cid: state._deadlines[cid] for cid in state.roster.records}
        assert {cid.decode(): score for cid, score in scores} == {
            cid: d.at_ms for cid, d in deadlines.items()
        }
        assert member_count == len(deadlines)
        assert {user.decode(): int(number) for user, number in user_counts.items()} == state.roster.users
        lingering = {cid: d.reason for cid, d in deadlines.items() if d.lingering}
        assert {cid.decode(): reason.decode() for cid, reason in reasons.items()} == lingering


def answer(verb: str, answered: Any) -> Any:
    """Return an answer without what may differ: the order of a hash, and how a beat that is unknown is called."""
    if verb == "page":
        page = script_calls.page_answer(answered)
        return page._replace(records=sorted(page.records, key=lambda record: record.member.cid))
    decoded = script_calls.decode_answer(answered)
    if verb == "beat":
        decoded.results = [result is True for result in decoded.results]
    return decoded


def said(payload: bytes) -> Any:
    return payload[:1], msgspec.msgpack.decode(payload[1:])


CIDS = st.sampled_from(["a", "b", 'odd "\\ é\u2028 cid'])
EPOCHS = st.sampled_from([1, 1, 2, 3])
STATES = st.sampled_from([document({}), document({"x": 1}), document({"text": 'quote " \\ \u2028 ü'})])
TTLS_MS = st.sampled_from([TTL_MS, TTL_MS, GRACE_MS, 3 * TTL_MS])
ENTERS = st.builds(
    Enter,
    CIDS,
    st.sampled_from(["ann", "bob"]),
    st.sampled_from([document({}), document({"name": "Ann"})]),
    st.none() | STATES,
    EPOCHS,
    st.sampled_from(["node-1", "node-1", "node-2", LEASE_NODE]),
    TTLS_MS,
    st.sampled_from([0, 0, 2]),
    st.sampled_from([0, 0, 4]),
    st.sampled_from([0, 0, BEGIN_MS - 5_000]),
    st.sampled_from([0, 0, GENERATION, GENERATION + 1]),
)
CHANGES = st.builds(Change, CIDS, EPOCHS, st.integers(1, 6), STATES)
LEAVES = st.builds(Leave, CIDS, EPOCHS | st.none(), st.sampled_from(["left", "kicked"]), st.booleans())
LINGERS = st.builds(
    Linger, CIDS, EPOCHS, st.sampled_from([GRACE_MS, 2 * TTL_MS]), st.sampled_from(["closed", "timeout"])
)
BEATS = st.builds(Beat, st.dictionaries(CIDS, EPOCHS, min_size=1), st.just(TTL_MS))


def batch(operations: list[Operation]) -> tuple[str, list[Any]]:
    packed = [script_calls.pack(operation) for operation in operations]
    return packed[0].verb, [row for each in packed for row in each.rows]


def batches(operations: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, list[Any]]]:
    return st.lists(operations, min_size=1, max_size=3).map(batch)


def page(cursor: str, limit: int, *, members_max: int = 0) -> list[Any]:
    return [script_calls.page_row(cursor, limit, bytes_max=100_000, members_max=members_max)]


PAGES = st.tuples(
    st.just("page"),
    st.builds(page, st.just("scan:0"), st.integers(1, 4) | st.just(100), members_max=st.integers(0, 3))
    | st.builds(page, CIDS.map("after:{}".format) | st.just("after:"), st.integers(1, 4)),
)
CALLS = st.one_of(
    batches(ENTERS),
    batches(ENTERS),
    batches(CHANGES),
    batches(LEAVES),
    batches(LINGERS),
    BEATS.map(lambda operation: batch([operation])),
    st.tuples(st.sampled_from(["sweep", "counts"]), st.just([])),
    PAGES,
)
STEP = st.tuples(
    # how far the store's clock goes before the call, some of it back
    st.sampled_from([0, 0, 1, GRACE_MS, TTL_MS // 2, TTL_MS, 3 * TTL_MS, -1, -1_000, -1_001, -7_200_000]),
    # for how long the call has been on its way
    st.sampled_from([0, 0, 0, LATE_MS, LATE_MS + 1, -7_200_000]),
    # what is left of a hold that its node keeps
    st.sampled_from([0, 0, 0, 0, 1, HOLD_MS, TTL_MS]),
    CALLS,
)
STEPS = st.lists(STEP, min_size=20, max_size=60)


@given(steps=STEPS)
@examples(60)
def test_the_same_calls_get_the_same_answers_and_say_the_same(
    shared_server: RedisServer, steps: list[tuple[int, int, int, tuple[str, list[Any]]]]
) -> None:
    rooms = Rooms(shared_server)
    try:
        for pass_ms, way_ms, hold_rest_ms, (verb, rows) in steps:
            rooms.now_ms += pass_ms
            rooms.call(verb, rows, Sent(rooms.now_ms - way_ms, LATE_MS, HOLD_MS, hold_rest_ms))
    finally:
        rooms.close()
