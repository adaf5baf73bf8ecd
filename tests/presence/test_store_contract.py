"""What every presence store does, whatever holds its rooms."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.presence.operations import FENCED, FULL, MISSING, REMOVED, TAKEN, Done, Enter, Leave
from presence_server.presence.paging import FIRST_PAGE, is_cursor
from presence_server.presence.port import CLAIM_CHANGED, MemberPage
from presence_server.presence.roster import LEASE_NODE, Delta, MemberCounts, Snapshot
from presence_server.presence.script_calls import PAGE_STEP
from tests.presence.conftest import Adapter
from tests.presence.stored import Stored
from tests.support.operations import CLAIM_MS, TTL_MS, beat, change, enter, kick, leave, linger
from tests.support.properties import examples

FENCE_MS = 2 * TTL_MS
BUCKET = 7
"""Members of one bucket of a hash on Valkey: HSCAN gives all of them."""


def test_every_operation_is_answered_once(store: Stored) -> None:
    for operation in (enter("a"), change("a", 2), beat("a"), linger("a", 10), leave("a"), kick("b")):
        store.carry_out(operation)
    assert len([what for _, what in store.happened if not isinstance(what, Delta)]) == 6


def test_what_changed_is_announced_before_it_is_answered(store: Stored) -> None:
    outcome = store.do(enter("a"))
    (_, announced), (_, answered) = store.happened
    assert isinstance(announced, Delta)
    assert answered is outcome
    assert (announced.generation, announced.seq) == (outcome.generation, outcome.seq)


def test_an_answer_holds_the_member_as_it_is_now(store: Stored) -> None:
    store.do(enter("a", {"x": 1}))
    record = store.do(change("a", 2, {"x": 2})).record
    assert store.snapshot().records == (record,)


def test_what_changes_nothing_announces_nothing(store: Stored) -> None:
    store.do(enter("a"))
    store.happened.clear()
    store.do(enter("a"), beat("a"), change("a", 1), linger("a", 1_000))
    assert store.deltas() == []


def test_refusals_say_why(store: Stored) -> None:
    assert store.carry_out(leave("a")) == MISSING
    store.do(enter("a", epoch=2, members_max=1))
    assert store.carry_out(enter("a", epoch=1)) == FENCED
    assert store.carry_out(enter("b", members_max=1)) == FULL


def pages(store: Stored, limit: int, bytes_max: int = 100_000) -> list[list[str]]:
    """Return the cids of each page of the lobby."""
    found: list[MemberPage | None] = []
    cursor: str | None = FIRST_PAGE
    while cursor is not None:
        store.port.page("lobby", cursor, limit, bytes_max, found.append)
        page = found[-1]
        assert page is not None
        cursor = page.following
        assert cursor is None or is_cursor(cursor)
        assert len(found) < 1_000, "pages without end"
    return [[record.member.cid for record in page.records] for page in found if page is not None]


@pytest.mark.parametrize("limit", [1, 40, 1_000])
def test_every_member_is_on_a_page(store: Stored, limit: int) -> None:
    cids = [f"c{n:03}" for n in range(130)]
    store.do(*(enter(cid, {"n": 1}) for cid in cids))
    found = pages(store, limit)
    assert sorted({cid for page in found for cid in page}) == cids
    assert max(map(len, found)) <= limit + PAGE_STEP + BUCKET


def test_a_page_ends_where_its_bytes_do(store: Stored) -> None:
    store.do(*(enter(f"c{n:03}", {"text": "x" * 2_000}) for n in range(60)))
    found = pages(store, 1_000, 40_000)
    assert len({cid for page in found for cid in page}) == 60
    assert max(map(len, found)) <= 20


def test_an_expired_member_is_on_no_page(store: Stored) -> None:
    store.do(enter("a"), enter("b", ttl_ms=3 * TTL_MS))
    store.move(TTL_MS)
    assert pages(store, 100) == [["b"]]


def test_a_room_that_nobody_is_in_has_an_empty_page(store: Stored) -> None:
    assert pages(store, 100) == [[]]


def test_of_a_room_with_more_members_than_are_wanted_a_snapshot_has_the_numbers(store: Stored) -> None:
    store.do(enter("a", user="ann"), enter("b", user="ann"), enter("c", user="bob"))
    read: list[Snapshot] = []
    for members_max in (2, 3):
        store.port.snapshot("lobby", read.append, members_max=members_max)
    assert [(len(snapshot.records), snapshot.counts) for snapshot in read] == [
        (0, MemberCounts(3, 2)),
        (3, None),
    ]
    assert read[0].seq == read[1].seq == 3


def test_an_expired_member_is_in_no_snapshot_even_before_it_is_announced(store: Stored) -> None:
    store.do(enter("a"))
    store.move(TTL_MS)
    assert store.cids() == set()


def test_a_sweep_announces_the_expired_once(store: Stored) -> None:
    store.do(enter("a"), enter("b"), linger("b", 1_000))
    store.pass_ms(1_000)
    store.pass_ms(1_000)
    store.pass_ms(TTL_MS)
    store.pass_ms(TTL_MS)
    leaves = [entry.cid for delta in store.deltas() for entry in delta.leaves]
    assert leaves == ["b", "a"]


def test_an_eviction_that_an_operation_noticed_is_not_announced_again(store: Stored) -> None:
    store.do(enter("a"))
    store.move(TTL_MS)
    store.do(enter("b"))
    store.port.sweep_expired()
    assert [entry.cid for delta in store.deltas() for entry in delta.leaves] == ["a"]


def test_one_sweep_announces_everybody_who_is_due(store: Stored) -> None:
    for n in range(250):
        store.do(enter(f"c{n}"))
    store.pass_ms(TTL_MS)
    assert sum(len(delta.leaves) for delta in store.deltas()) == 250
    assert store.followed().records == {}


def test_who_is_beaten_stays(store: Stored) -> None:
    store.do(enter("a"), enter("b"))
    for _ in range(4):
        store.pass_ms(TTL_MS - 5_000)
        store.do(beat("a", "b"))
    assert store.cids() == {"a", "b"}


def test_rooms_expire_each_in_its_own_time(store: Stored) -> None:
    store.listen("other")
    store.do(enter("a"))
    store.move(TTL_MS // 2)
    store.do(enter("a"), room="other")
    store.pass_ms(TTL_MS // 2)
    assert (store.cids(), store.cids("other")) == (set(), {"a"})
    store.pass_ms(TTL_MS // 2)
    assert store.cids("other") == set()


def test_an_expiry_that_is_brought_forward_is_noticed_in_time(store: Stored) -> None:
    store.do(enter("a"))
    store.pass_ms(100)
    store.do(linger("a", 50))
    store.pass_ms(50)
    assert [entry.cid for entry in store.deltas()[-1].leaves] == ["a"]


def test_a_beat_does_not_undo_a_linger(store: Stored) -> None:
    store.do(enter("a"), enter("b"), linger("a", 1_000))
    store.do(beat("a", "b"))
    store.pass_ms(1_000)
    assert store.cids() == {"b"}
    assert [entry.cid for delta in store.deltas() for entry in delta.leaves] == ["a"]


def test_a_change_of_a_life_that_has_not_entered_yet_does_not_keep_it_from_entering(store: Stored) -> None:
    store.do(enter("a"), linger("a", 1_000))
    assert store.carry_out(change("a", 2, epoch=2)) is MISSING
    store.do(enter("a", epoch=2))
    store.pass_ms(1_000)
    assert store.cids() == {"a"}


def test_one_room_knows_nothing_of_another(store: Stored) -> None:
    store.listen("other")
    store.do(enter("a"), kick("a"))
    store.do(enter("a"), room="other")
    assert store.cids("other") == {"a"}
    assert store.deltas("other")[0].seq == 1


def test_an_empty_room_is_a_snapshot_without_members(store: Stored) -> None:
    assert store.snapshot("nobody was ever here").records == ()


def test_a_room_made_anew_is_not_taken_for_the_old_one(store: Stored) -> None:
    before = store.do(enter("a")).generation
    store.do(leave("a"))
    after = store.do(enter("a")).generation
    seq = store.deltas()[-1].seq
    assert after != before or seq == 3


def test_a_claim_is_above_the_token_and_every_earlier_claim(store: Stored) -> None:
    assert store.claim("a", 1) == 2
    assert store.claim("a", 1) == 3
    assert store.claim("a", 7) == 8
    assert store.claim("a", 2) == 9
    assert store.claim("b", 1) == 2


def test_a_claim_that_goes_by_an_earlier_one_fails_where_there_is_a_later(store: Stored) -> None:
    assert store.claim("a", 1, known=1) == CLAIM_CHANGED
    assert store.claim("a", 1, known=0) == 2
    assert store.claim("a", 5, known=0) == CLAIM_CHANGED
    assert store.claim("a", 1, known=2) == 3
    assert store.claim("a", 1) == 4


@pytest.mark.parametrize("claimed", [False, True])
def test_no_claim_succeeds_once_the_tokens_have_ended(store: Stored, claimed: bool) -> None:
    if claimed:
        store.claim("a", 1)
    ended: list[bool] = []
    store.port.end_tokens("a", lambda: ended.append(True))
    assert ended == [True]
    assert [store.claim("a", 1), store.claim("a", 9)] == [0, 0]
    assert store.claim("b", 1) == 2


def test_the_end_of_a_user_s_tokens_is_kept_for_as_long_as_one_could_be_used(store: Stored) -> None:
    ended: list[int] = []
    store.port.end_user_tokens("zoë x", 1_700_000_000_000, lambda: ended.append(1))
    store.port.end_user_tokens("zoë x", 1_700_000_000_001, lambda: ended.append(2))
    for user in ("zoë x", "zoë y"):
        store.port.read_user_end(user, ended.append)
    assert ended == [1, 2, 1_700_000_000_001, 0]
    store.pass_ms(CLAIM_MS)
    store.port.read_user_end("zoë x", ended.append)
    assert ended[-1] == 0


def test_nothing_is_left_when_everybody_has_gone(store: Stored) -> None:
    for room in ("lobby", "left", "kicked", "lost", "beaten", "never"):
        store.do(enter("a", epoch=2), room=room)
    store.do(leave("a", epoch=2), room="left")
    store.do(kick("a", epoch=2), room="kicked")
    store.do(linger("a", 10, epoch=2), room="lost")
    store.do(beat("a", epoch=2), room="beaten")
    store.carry_out(change("b", 2), room="nobody")
    store.do(beat("b"), room="nobody either")
    store.pass_ms(TTL_MS)
    store.pass_ms(FENCE_MS)
    assert store.rooms_kept() == 0


def test_asking_leaves_nothing_behind(store: Stored) -> None:
    store.snapshot("asked")
    store.carry_out(leave("a"), room="asked")
    store.carry_out(linger("a", 10), room="asked")
    assert store.rooms_kept() == 0


OPERATIONS = st.one_of(
    st.builds(enter, st.sampled_from("abc"), st.sampled_from([None, {}, {"x": 1}]), epoch=st.integers(1, 3)),
    st.builds(change, st.sampled_from("abc"), st.integers(1, 5), epoch=st.integers(1, 3)),
    st.builds(leave, st.sampled_from("abc"), epoch=st.integers(1, 3)),
    st.builds(kick, st.sampled_from("abc"), epoch=st.integers(1, 3)),
    st.builds(linger, st.sampled_from("abc"), st.sampled_from([10, 3_000]), epoch=st.integers(1, 3)),
    st.builds(beat, st.sampled_from("abc"), st.sampled_from("abc"), epoch=st.integers(1, 3)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["lobby", "other"]), OPERATIONS) | st.sampled_from([0, 9, 3_000, TTL_MS])
)


@given(steps=STEPS)
@examples(200)
def test_who_follows_the_announcements_has_what_the_store_has(
    adapter: Adapter, steps: list[tuple[str, object] | int]
) -> None:
    store = adapter()
    store.listen("other")
    for step in steps:
        if isinstance(step, int):
            store.pass_ms(step)
        else:
            room, operation = step
            outcome = store.carry_out(operation, room)  # type: ignore[arg-type]  # OPERATIONS makes nothing else
            announced = store.deltas(room)[-1:]
            if isinstance(outcome, Done) and announced and announced[0].generation == outcome.generation:
                assert outcome.seq >= announced[0].seq
    store.port.sweep_expired()
    for room in ("lobby", "other"):
        records = {record.member.cid: record for record in store.snapshot(room).records}
        assert store.followed(room).records == records
    store.pass_ms(TTL_MS)
    store.pass_ms(FENCE_MS)
    assert store.rooms_kept() == 0


# --- members without a connection ---


def lease(cid: str, ttl_ms: int = TTL_MS, **fields: Any) -> Enter:
    return enter(cid, node=LEASE_NODE, ttl_ms=ttl_ms, **fields)


REMOVAL = Leave("a", None, "kicked", fence=True)


def test_an_enter_says_whether_it_made_the_member(store: Stored) -> None:
    assert [store.do(lease("a")).created for _ in range(3)] == [True, False, False]
    store.do(REMOVAL)
    assert store.do(lease("a")).created


def test_a_lease_lasts_as_long_as_it_says_whatever_the_ttl_of_others(store: Stored) -> None:
    store.do(lease("a", 3 * TTL_MS), lease("b", 1_000), enter("c"))
    store.pass_ms(1_000)
    assert store.cids() == {"a", "c"}
    store.pass_ms(TTL_MS)  # sweeps go on meanwhile, for who is due
    assert store.cids() == {"a"}
    store.do(lease("b", 1_000))
    store.pass_ms(1_000)
    store.pass_ms(2 * TTL_MS - 3_000)
    assert store.cids() == {"a"}
    store.pass_ms(1_000)
    assert store.cids() == set()
    assert [leave.reason for delta in store.deltas() for leave in delta.leaves] == ["timeout"] * 4


def test_what_a_lease_says_again_is_no_event_and_what_is_new_is(store: Stored) -> None:
    store.do(lease("a", state={"n": 1}))
    store.happened.clear()
    store.do(lease("a", state={"n": 1}))
    assert store.deltas() == []
    assert store.do(lease("a", state={"n": 2})).record.member.v == 2  # type: ignore[union-attr]  # it is there
    (delta,) = store.deltas()
    assert [update.v for update in delta.updates] == [2]


def test_a_connection_s_member_is_not_taken_by_a_lease(store: Stored) -> None:
    store.do(enter("a"))
    assert store.carry_out(lease("a")) == TAKEN
    assert store.carry_out(lease("a", epoch=2)) == TAKEN
    assert [record.node for record in store.snapshot().records] == ["n1"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_no_life_of_who_was_removed_is_entered_before_one_has_left(store: Stored, epoch: int) -> None:
    entered = store.do(enter("a", epoch=epoch)).record
    assert store.do(REMOVAL).record == entered
    assert store.carry_out(enter("a", epoch=epoch)) == REMOVED
    assert store.carry_out(change("a", 2, epoch=epoch)) == MISSING
    assert store.do(beat("a", epoch=epoch)).unknown == ("a",)
    assert store.carry_out(enter("a", epoch=epoch + 1)) == REMOVED
    assert [leave.reason for delta in store.deltas() for leave in delta.leaves] == ["kicked"]
    assert store.carry_out(leave("a", epoch=epoch)) == MISSING  # its client knows
    store.do(enter("a", epoch=epoch))


def test_a_later_life_that_knows_of_its_removal_may_join_and_an_earlier_one_may_not(store: Stored) -> None:
    store.do(enter("a", epoch=2), REMOVAL)
    assert store.carry_out(enter("a", epoch=3)) == REMOVED
    assert store.carry_out(leave("a", epoch=3)) == MISSING
    assert store.carry_out(enter("a", epoch=2)) == FENCED
    store.do(enter("a", epoch=3))


def test_a_removal_is_forgotten_in_its_time(store: Stored) -> None:
    store.do(enter("a"), REMOVAL)
    store.pass_ms(FENCE_MS - 1_000)
    assert store.carry_out(enter("a")) == REMOVED
    store.pass_ms(1_000)
    store.do(enter("a"))


def test_what_has_a_lease_may_come_back_after_its_removal(store: Stored) -> None:
    store.do(lease("a"), REMOVAL)
    store.do(lease("a"))


def test_who_is_not_there_cannot_be_removed_and_is_not_kept_out(store: Stored) -> None:
    assert store.carry_out(REMOVAL) == MISSING
    store.do(enter("a"))


def test_an_earlier_stay_that_lost_writes_left_behind_becomes_the_one_that_is_brought(store: Stored) -> None:
    first = store.do(enter("a", epoch=1)).record
    assert first is not None
    later = msgspec.structs.replace(enter("a", epoch=2), v=1, at=first.member.at + 5)
    again = store.do(later).record
    assert again is not None
    assert again.member.at == first.member.at + 5
    earlier = msgspec.structs.replace(enter("a", epoch=3), v=1, at=first.member.at)
    kept = store.do(earlier).record
    assert kept is not None
    assert kept.member.at == first.member.at + 5
    assert store.followed().records["a"] == kept


@pytest.mark.parametrize("known", [False, True])
def test_who_goes_on_brings_what_a_store_has_lost_and_nothing_where_it_has_left_meanwhile(
    store: Stored, known: bool
) -> None:
    generation = store.do(enter("b")).generation
    brought = msgspec.structs.replace(enter("a", {"x": 1}, epoch=2), v=7, at=1_000)
    going_on = msgspec.structs.replace(brought, known_in=generation if known else generation - 1)
    record = store.do(going_on).record
    assert record is not None
    assert ((record.member.v, record.member.at) == (7, 1_000)) is not known
    assert store.followed().records["a"] == record
