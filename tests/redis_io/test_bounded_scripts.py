"""No call of a room's script does more than so much, whatever the size of the room: it holds up everybody else."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
import redis

from presence_server.presence import script_calls
from presence_server.presence.operations import Enter, Leave, Linger, Sent
from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.redis import SCRIPTS
from presence_server.presence.redis_reads import PART_BYTES_MAX, PART_MEMBERS_MAX, PART_STEP
from presence_server.presence.roster import Change
from presence_server.presence.state import EVICTIONS_MAX
from presence_server.protocol.codec import document
from presence_server.redis_io.keys import Keys
from tests.support.redis_server import RedisServer

KEYS = Keys("ps")
ROOM = "crowd"
MEMBERS: Final = 4_000
TTL_MS: Final = 60_000
TOUCHED_MAX: Final = 6_000
"""What one call may send to the server and get from it, in strings: 5 ms of the server's time is 10,000 and more."""
BYTES_MAX: Final = 49_152
"""Bytes of a page where an outbox may have 64 KiB. A bucket of Valkey's has seven members, and is not divided."""
COUNTING: Final = """
local server = redis
local function size(answer)
  if type(answer) ~= 'table' then
    return 1
  end
  local total = 0
  for _, part in ipairs(answer) do
    total = total + size(part)
  end
  return total
end
local redis = {
  call = function(...)
    local answer = server.call(...)
    server.call('INCRBY', 'touched', select('#', ...) + size(answer))
    return answer
  end,
}
"""


class Crowd:
    """A room with many members on a real server, whose scripts count what they touch."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis.from_url(server.url)
        self.client.flushall()
        self.cids = [f"c{n:05}" for n in range(MEMBERS)]
        for i in range(0, MEMBERS, 100):
            self.call("enter", [self.enter(cid) for cid in self.cids[i : i + 100]])

    def call(self, verb: str, rows: list[Any], *, ttl_ms: int = TTL_MS) -> tuple[int, Any]:
        """Call a script; return how much it has touched, and what it has answered."""
        self.client.set("touched", 0)
        seconds, micros = self.client.time()
        sent = Sent(int(seconds) * 1_000 + int(micros) // 1_000, 3_600_000, 0)
        arguments = script_calls.arguments(KEYS.channel(ROOM), "77", ttl_ms, sent, rows)
        marker, _, rest = SCRIPTS[verb].text.partition("\n")
        answered = self.client.eval(f"{marker}\n{COUNTING}{rest}", 6, *KEYS.room(ROOM), *arguments)
        return int(self.client.get("touched") or 0), answered

    @staticmethod
    def enter(cid: str) -> Any:
        enter = Enter(cid, f"user-{cid}", document({}), document({"n": 1}), 1, "node-1", 3_600_000)
        return script_calls.pack(enter).rows[0]

    def end_all(self) -> None:
        """Let every member have expired."""
        self.client.zadd(KEYS.room(ROOM)[0], {cid: 1_000 + n for n, cid in enumerate(self.cids)})


@pytest.fixture
def crowd(shared_server: RedisServer) -> Iterator[Crowd]:
    crowd = Crowd(shared_server)
    yield crowd
    crowd.client.close()


def test_no_call_of_a_large_room_touches_more_than_a_few_thousand_things(crowd: Crowd) -> None:
    some, state = crowd.cids[:100], document({"n": 2})
    calls = {
        "enter": [crowd.enter(f"new-{n}") for n in range(script_calls.CALL_MAX["enter"])],
        "change": [script_calls.pack(Change(cid, 1, 2, state)).rows[0] for cid in some],
        "beat": [(cid, 1) for cid in crowd.cids[: script_calls.CALL_MAX["beat"]]],
        "linger": [script_calls.pack(Linger(cid, 1, 3_600_000, "closed")).rows[0] for cid in some],
        "leave": [script_calls.pack(Leave(cid, 1, "kicked", fence=True)).rows[0] for cid in some],
        "counts": [],
        "sweep": [],
    }
    touched = {verb: crowd.call(verb, rows)[0] for verb, rows in calls.items()}
    crowd.client.hdel(KEYS.room(ROOM)[3], "checked")
    touched["sweep, checking users"] = crowd.call("sweep", [])[0]
    crowd.end_all()
    touched["sweep, evicting"] = crowd.call("sweep", [])[0]
    assert {verb: number for verb, number in touched.items() if number > TOUCHED_MAX} == {}
    assert touched["enter"] > 500, "it counts"


def test_a_part_of_a_large_room_costs_what_is_in_it(crowd: Crowd) -> None:
    def part(limit: int) -> tuple[int, int]:
        row = script_calls.page_row("scan:0", limit, bytes_max=PART_BYTES_MAX, step=PART_STEP)
        touched, answered = crowd.call("page", [row])
        return touched, len(script_calls.page_answer(answered).records)

    for limit in (100, 250, PART_MEMBERS_MAX):
        touched, members = part(limit)
        assert limit <= members <= limit + 2 * PART_STEP
        assert touched < 6 * members + 100 <= TOUCHED_MAX


def test_a_page_keeps_to_its_bytes_whatever_its_members_have(crowd: Crowd) -> None:
    states = {cid: document("x" * (4_000 if n % 7 else 60)) for n, cid in enumerate(crowd.cids[:1_000])}
    for i in range(0, 1_000, 100):
        changes = [Change(cid, 1, 2, states[cid]) for cid in crowd.cids[i : i + 100]]
        crowd.call("change", [script_calls.pack(change).rows[0] for change in changes])
    found: dict[str, int] = {}
    cursor, sizes = FIRST_PAGE, []
    while cursor:
        row = script_calls.page_row(cursor, 200, bytes_max=BYTES_MAX)
        page = script_calls.page_answer(crowd.call("page", [row])[1])
        cursor = page.following
        sizes.append(sum(len(record.member.state) for record in page.records))
        found |= {record.member.cid: record.member.v for record in page.records}
    assert set(found) == set(crowd.cids)
    assert max(sizes) <= BYTES_MAX


def test_who_expired_costs_a_page_as_much_as_who_is_there(crowd: Crowd) -> None:
    """Or a page of a room whose nodes have died would look for somebody for as long as it takes."""
    crowd.end_all()
    row = script_calls.page_row("scan:0", 100, bytes_max=100_000)
    touched, answered = crowd.call("page", [row])
    page = script_calls.page_answer(answered)
    assert (page.records, page.following != "") == ([], True)
    assert touched < 700


def test_a_page_by_cid_of_a_room_that_has_grown_begins_anew(crowd: Crowd) -> None:
    """Pages go by cid only while a room is small: it takes all cids, in order. Nobody is missed."""
    row = script_calls.page_row("after:c03990", 10, bytes_max=100_000)
    touched, answered = crowd.call("page", [row])
    page = script_calls.page_answer(answered)
    assert page.how == "scan"
    assert touched < 300


def test_a_room_with_too_many_members_costs_nothing_to_refuse(crowd: Crowd) -> None:
    row = script_calls.page_row("scan:0", 500, bytes_max=100_000, members_max=MEMBERS - 1)
    touched, answered = crowd.call("page", [row])
    page = script_calls.page_answer(answered)
    assert (page.is_refused, page.records, page.counts) == (True, [], (MEMBERS, MEMBERS))
    assert touched < 100


def test_users_of_a_room_are_counted_anew_only_while_that_is_a_few(crowd: Crowd) -> None:
    """See `CHECKED_MEMBERS_MAX`."""
    crowd.client.hset(KEYS.room(ROOM)[2], "nobody", 1)
    crowd.call("leave", [])
    crowd.client.hdel(KEYS.room(ROOM)[3], "checked")
    crowd.call("sweep", [])
    assert crowd.client.hexists(KEYS.room(ROOM)[2], "nobody")
    for i in range(0, MEMBERS - 1_000, EVICTIONS_MAX):
        leaves = [Leave(cid, 1, "left") for cid in crowd.cids[i : i + EVICTIONS_MAX]]
        crowd.call("leave", [script_calls.pack(leave).rows[0] for leave in leaves])
    touched, _ = crowd.call("sweep", [])
    assert not crowd.client.hexists(KEYS.room(ROOM)[2], "nobody")
    assert 1_000 < touched <= TOUCHED_MAX
