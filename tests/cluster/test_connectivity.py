"""The table of connectivity, without anything around it."""

from itertools import product
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from presence_server.cluster.connectivity import (
    TABLE,
    ClockStepped,
    Connectivity,
    Effect,
    Event,
    HistoryBroken,
    Lost,
    NodeForgotten,
    OthersSilent,
    OwnMemberLost,
    Rejoined,
    Restored,
    State,
    Suspended,
)

PATIENCE_MS, HOLD_MS, PROVISIONAL_MS = 15_000, 20_000, 30_000
SOON = Restored(without_ms=200, same_server=True)
LATE = Restored(without_ms=PATIENCE_MS + 1, same_server=True)
OTHER_SERVER = Restored(without_ms=200, same_server=False)
NOW_MS = 1_000_000
ISOLATED = (Effect.ISOLATE, Effect.SHOW_STALENESS, Effect.DELIVER_UNSENT)
ENDED = (Effect.SHOW_STALENESS, Effect.FORGET_ISOLATION)


def fresh() -> Connectivity:
    return Connectivity(patience_ms=PATIENCE_MS, hold_ms=HOLD_MS, provisional_ms=PROVISIONAL_MS)


def connected() -> Connectivity:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    connectivity.on(Rejoined(), NOW_MS)
    assert connectivity.state is State.CONNECTED
    return connectivity


def test_every_event_has_a_row_in_every_state() -> None:
    assert set(TABLE) == set(product(State, get_args(Event)))


def test_a_node_begins_isolated() -> None:
    assert fresh().state is State.ISOLATED
    assert fresh().stale


def test_contact_makes_a_node_rejoin_and_then_be_connected() -> None:
    connectivity = fresh()
    assert connectivity.on(SOON, NOW_MS) == (
        Effect.SHOW_STALENESS,
        Effect.REPEAT_CLAIMS,
        Effect.READ_ROOMS,
        Effect.REPLAY_DEPARTURES,
        Effect.ENTER_MEMBERS,
        Effect.NOTE_ANEW,
        Effect.FOLLOW_POLICY,
    )
    assert (connectivity.state, connectivity.stale) == (State.REJOINING, True)
    assert connectivity.on(Rejoined(), NOW_MS) == ENDED
    assert (connectivity.state, connectivity.stale) == (State.CONNECTED, False)


def test_a_lost_contact_isolates() -> None:
    connectivity = connected()
    assert connectivity.on(Lost(), NOW_MS) == ISOLATED
    assert connectivity.state is State.ISOLATED
    assert connectivity.on(Lost(), NOW_MS) == ()


def test_a_short_silence_asks_for_no_hold() -> None:
    assert connected().hold_rest_ms(NOW_MS) == 0


def test_another_server_asks_for_a_hold_unless_it_is_the_first() -> None:
    connectivity = fresh()
    connectivity.on(OTHER_SERVER, NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == 0
    connectivity.on(Rejoined(), NOW_MS)
    connectivity.on(Lost(), NOW_MS)
    connectivity.on(OTHER_SERVER, NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == HOLD_MS


def test_after_a_long_silence_every_call_asks_for_the_rest_of_the_hold() -> None:
    connectivity = fresh()
    connectivity.on(LATE, NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == HOLD_MS
    assert connectivity.hold_rest_ms(NOW_MS + HOLD_MS - 1) == 1
    assert connectivity.hold_rest_ms(NOW_MS + HOLD_MS) == 0


def test_a_node_that_begins_while_all_others_are_silent_asks_for_a_hold() -> None:
    connectivity = fresh()
    assert connectivity.on(OthersSilent(), NOW_MS) == ()
    connectivity.on(SOON, NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == HOLD_MS
    connectivity.on(Lost(), NOW_MS + HOLD_MS)
    connectivity.on(SOON, NOW_MS + HOLD_MS)
    assert connectivity.hold_rest_ms(NOW_MS + HOLD_MS) == 0


def test_a_silence_of_all_others_that_is_found_after_the_return_asks_for_a_hold_too() -> None:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    connectivity.on(OthersSilent(), NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == HOLD_MS
    connectivity.on(Rejoined(), NOW_MS + HOLD_MS)
    connectivity.on(Lost(), NOW_MS + HOLD_MS)
    connectivity.on(SOON, NOW_MS + HOLD_MS)
    assert connectivity.hold_rest_ms(NOW_MS + HOLD_MS) == 0


def test_calls_of_an_isolated_node_judge_nobody() -> None:
    connectivity = connected()
    connectivity.on(Lost(), NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == HOLD_MS
    connectivity.on(SOON, NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == 0


def test_a_silence_as_long_as_the_patience_is_a_short_one() -> None:
    connectivity = fresh()
    connectivity.on(Restored(without_ms=PATIENCE_MS, same_server=True), NOW_MS)
    assert connectivity.hold_rest_ms(NOW_MS) == 0


def test_the_rejoin_lasts_as_long_as_the_hold() -> None:
    connectivity = fresh()
    connectivity.on(LATE, NOW_MS)
    assert connectivity.on(Rejoined(), NOW_MS + HOLD_MS - 1) == ()
    assert connectivity.stale
    connectivity.on(Rejoined(), NOW_MS + HOLD_MS)
    assert not connectivity.stale


def test_a_step_of_the_stores_clock_asks_for_a_hold_and_has_all_noted_anew() -> None:
    connectivity = connected()
    assert connectivity.on(ClockStepped(), NOW_MS) == (Effect.NOTE_ANEW,)
    assert (connectivity.state, connectivity.hold_rest_ms(NOW_MS)) == (State.CONNECTED, HOLD_MS)


def test_a_suspended_node_isolates_itself_and_proves_contact_anew() -> None:
    connectivity = connected()
    assert connectivity.on(Suspended(), NOW_MS) == (Effect.RENEW_CONTACT, *ISOLATED)
    assert connectivity.state is State.ISOLATED


def test_the_store_is_trusted_where_it_is_the_server_that_it_was() -> None:
    for event, trusted in ((SOON, True), (OTHER_SERVER, False)):
        connectivity = fresh()
        connectivity.on(event, NOW_MS)
        assert connectivity.trusted is trusted
        connectivity.on(Rejoined(), NOW_MS)
        assert connectivity.trusted


def test_a_store_that_has_lost_something_is_not_trusted_before_it_is_repaired() -> None:
    for event in (OwnMemberLost(asked_ms=NOW_MS), HistoryBroken()):
        connectivity = connected()
        connectivity.on(event, NOW_MS)
        assert not connectivity.trusted
        connectivity.on(Rejoined(), NOW_MS)
        assert connectivity.trusted


def test_a_store_that_lost_an_own_member_is_repaired_without_isolation() -> None:
    connectivity = connected()
    effects = connectivity.on(OwnMemberLost(asked_ms=NOW_MS), NOW_MS)
    assert {Effect.ENTER_MEMBERS, Effect.NOTE_ANEW} <= set(effects)
    assert not {Effect.ISOLATE, Effect.REPLAY_DEPARTURES} & set(effects)
    assert connectivity.state is State.REJOINING


def test_a_store_that_does_not_know_this_node_is_repaired_like_one_that_lost_a_member() -> None:
    connectivity, other = connected(), connected()
    lost = OwnMemberLost(asked_ms=NOW_MS)
    assert connectivity.on(NodeForgotten(), NOW_MS) == other.on(lost, NOW_MS)
    assert connectivity.state is State.REJOINING
    assert connectivity.on(Rejoined(), NOW_MS + 1) == ENDED


def test_a_node_that_is_forgotten_during_a_rejoin_notes_everything_anew_and_enters_its_members_again() -> (
    None
):
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    assert connectivity.on(NodeForgotten(), NOW_MS) == (Effect.NOTE_ANEW,)
    assert connectivity.on(Rejoined(), NOW_MS + 1) == (Effect.REPEAT_CLAIMS, Effect.ENTER_MEMBERS)
    assert connectivity.on(Rejoined(), NOW_MS + 2) == ENDED


def test_news_from_before_a_rejoin_does_not_make_it_begin_again() -> None:
    connectivity = connected()
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS), NOW_MS + 10)
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS + 9), NOW_MS + 20)
    assert connectivity.on(Rejoined(), NOW_MS + 30) == ENDED


def test_a_member_lost_during_a_rejoin_makes_it_begin_once_more() -> None:
    connectivity = connected()
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS), NOW_MS + 10)
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS + 11), NOW_MS + 20)
    assert connectivity.on(Rejoined(), NOW_MS + 30) == (Effect.REPEAT_CLAIMS, Effect.ENTER_MEMBERS)
    assert connectivity.state is State.REJOINING
    assert connectivity.on(Rejoined(), NOW_MS + 40) == ENDED


def test_provisional_members_are_resolved_a_ttl_after_a_return() -> None:
    connectivity = connected()
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS - 1) == ()
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS) == (Effect.RESOLVE_PROVISIONAL,)
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS + 1) == ()


def test_a_history_that_broke_again_keeps_members_provisional_for_longer() -> None:
    connectivity = connected()
    connectivity.on(HistoryBroken(), NOW_MS + 5_000)
    assert connectivity.state is State.REJOINING
    connectivity.on(HistoryBroken(), NOW_MS + 6_000)
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS + 5_999) == ()
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS + 6_000) == (Effect.RESOLVE_PROVISIONAL,)


def test_a_history_that_broke_during_a_rejoin_has_members_entered_once_more() -> None:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    connectivity.on(HistoryBroken(), NOW_MS + 10)
    assert Effect.ENTER_MEMBERS in connectivity.on(Rejoined(), NOW_MS + 20)
    assert connectivity.on(Rejoined(), NOW_MS + 30) == ENDED


def test_an_isolated_node_resolves_nobody() -> None:
    connectivity = connected()
    connectivity.on(Lost(), NOW_MS + 1)
    assert connectivity.pass_time(NOW_MS + PROVISIONAL_MS) == ()


def test_what_is_rejoining_is_isolated_by_a_loss_like_what_is_connected() -> None:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    assert connectivity.on(Lost(), NOW_MS + 1) == ISOLATED
    connectivity.on(SOON, NOW_MS + 2)
    assert connectivity.on(Suspended(), NOW_MS + 3) == (Effect.RENEW_CONTACT, *ISOLATED)
    assert connectivity.on(Suspended(), NOW_MS + 4) == (Effect.RENEW_CONTACT,)
    assert connectivity.state is State.ISOLATED


def test_a_step_of_the_stores_clock_during_a_rejoin_prolongs_it_by_a_hold() -> None:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    assert connectivity.on(ClockStepped(), NOW_MS + 10) == (Effect.NOTE_ANEW,)
    assert connectivity.hold_rest_ms(NOW_MS + 10) == HOLD_MS
    assert connectivity.on(Rejoined(), NOW_MS + HOLD_MS + 9) == ()
    assert connectivity.state is State.REJOINING
    assert connectivity.on(Rejoined(), NOW_MS + HOLD_MS + 10) == ENDED


def test_a_broken_history_makes_members_provisional_long_after_the_last_return() -> None:
    connectivity = connected()
    later_ms = NOW_MS + 10 * PROVISIONAL_MS
    assert connectivity.pass_time(later_ms) == (Effect.RESOLVE_PROVISIONAL,)
    assert connectivity.on(HistoryBroken(), later_ms) == (
        Effect.SHOW_STALENESS,
        Effect.REPEAT_CLAIMS,
        Effect.ENTER_MEMBERS,
        Effect.NOTE_ANEW,
    )
    assert connectivity.pass_time(later_ms + PROVISIONAL_MS - 1) == ()
    assert connectivity.pass_time(later_ms + PROVISIONAL_MS) == (Effect.RESOLVE_PROVISIONAL,)
    assert connectivity.state is State.REJOINING


def test_a_lost_member_makes_nobody_provisional() -> None:
    connectivity = connected()
    connectivity.pass_time(NOW_MS + PROVISIONAL_MS)
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS), NOW_MS + PROVISIONAL_MS)
    assert connectivity.pass_time(NOW_MS + 10 * PROVISIONAL_MS) == ()


def test_each_loss_during_a_rejoin_makes_it_begin_once_more_and_none_before_does() -> None:
    connectivity = connected()
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS), NOW_MS)
    for began_ms in (NOW_MS + 10, NOW_MS + 20):
        connectivity.on(OwnMemberLost(asked_ms=began_ms - 1), began_ms - 1)
        assert connectivity.on(Rejoined(), began_ms) == (Effect.REPEAT_CLAIMS, Effect.ENTER_MEMBERS)
        connectivity.on(OwnMemberLost(asked_ms=began_ms), began_ms + 1)
    assert connectivity.on(Rejoined(), NOW_MS + 30) == ENDED


def test_a_member_lost_during_one_rejoin_prolongs_no_later_one() -> None:
    connectivity = fresh()
    connectivity.on(SOON, NOW_MS)
    connectivity.on(OwnMemberLost(asked_ms=NOW_MS + 1), NOW_MS + 1)
    connectivity.on(Lost(), NOW_MS + 2)
    connectivity.on(SOON, NOW_MS + 3)
    assert connectivity.on(Rejoined(), NOW_MS + 4) == ENDED


def test_a_new_node_trusts_nothing_and_has_nobody_judged() -> None:
    connectivity = fresh()
    assert not connectivity.trusted
    assert connectivity.hold_rest_ms(0) == HOLD_MS
    assert connectivity.on(Rejoined(), NOW_MS) == ()
    assert connectivity.pass_time(NOW_MS + 10 * PROVISIONAL_MS) == ()
    assert connectivity.state is State.ISOLATED
    assert not connectivity.trusted


def test_news_of_what_is_over_changes_nothing() -> None:
    connectivity = fresh()
    for event in (
        Lost(),
        OwnMemberLost(asked_ms=NOW_MS),
        NodeForgotten(),
        HistoryBroken(),
        ClockStepped(),
        Rejoined(),
    ):
        assert connectivity.on(event, NOW_MS) == ()
        assert connectivity.state is State.ISOLATED
    assert connectivity.on(SOON, NOW_MS) != ()
    assert connectivity.hold_rest_ms(NOW_MS) == 0
    connectivity = connected()
    for late in (LATE, Rejoined()):
        assert connectivity.on(late, NOW_MS) == ()
        assert (connectivity.state, connectivity.hold_rest_ms(NOW_MS)) == (State.CONNECTED, 0)
    connectivity.on(HistoryBroken(), NOW_MS)
    assert connectivity.on(LATE, NOW_MS) == ()
    assert (connectivity.state, connectivity.hold_rest_ms(NOW_MS)) == (State.REJOINING, 0)


def test_the_log_names_a_state_as_the_pages_do() -> None:
    assert {state.value: state.name.lower() for state in State} == {
        name: name for name in ("connected", "isolated", "rejoining")
    }


EVENTS = st.one_of(
    st.builds(Restored, without_ms=st.integers(0, 2 * PATIENCE_MS), same_server=st.booleans()),
    st.builds(OwnMemberLost, asked_ms=st.integers(NOW_MS, NOW_MS + 100_000)),
    st.sampled_from(
        [Lost(), NodeForgotten(), HistoryBroken(), Suspended(), ClockStepped(), OthersSilent(), Rejoined()]
    ),
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 20_000)), max_size=40))
def test_whatever_happens_it_ends_connected_without_hold_or_provisional_members(
    events: list[tuple[Event, int]],
) -> None:
    connectivity, now_ms = fresh(), NOW_MS
    isolated_before = True
    for event, wait_ms in events:
        now_ms += wait_ms
        effects = connectivity.on(event, now_ms)
        isolated = connectivity.state is State.ISOLATED
        assert (Effect.ISOLATE in effects) == (isolated and not isolated_before)
        assert (Effect.REPLAY_DEPARTURES in effects) == (isolated_before and not isolated)
        assert connectivity.hold_rest_ms(now_ms) <= HOLD_MS
        isolated_before = isolated
    connectivity.on(SOON, now_ms)
    now_ms += max(HOLD_MS, PROVISIONAL_MS)
    connectivity.pass_time(now_ms)
    for _ in range(2):
        connectivity.on(Rejoined(), now_ms)
    assert (connectivity.state, connectivity.hold_rest_ms(now_ms)) == (State.CONNECTED, 0)
    assert connectivity.pass_time(now_ms + PROVISIONAL_MS) == ()


def test_events_are_plain_data() -> None:
    for event in (SOON, Lost(), OwnMemberLost(3)):
        assert msgspec.json.decode(msgspec.json.encode(event), type=type(event)) == event
