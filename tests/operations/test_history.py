"""The record of a node's last minutes: what happened in each step, and a second."""

from presence_server.operations.history import NodeHistory, Totals
from presence_server.registry.figures import STEP_MS, STEPS_MAX, DecisionRate

BEGAN_MS = 1_700_000_000_000


def recorded(*totals: Totals, connections: int = 3) -> NodeHistory:
    """Return a record with one step after the other."""
    history_ = NodeHistory()
    for number, counted in enumerate(totals):
        history_.record(BEGAN_MS + number * STEP_MS, counted, connections, lag_ms=number)
    return history_


def test_each_step_has_what_was_counted_in_it() -> None:
    history_ = recorded(Totals(), Totals(5, 1, 10, 100, 7, 2), Totals(6, 1, 10, 150, 7, 5))
    history = history_.as_published()
    assert history.until == BEGAN_MS + 2 * STEP_MS
    assert (history.connections, history.connects) == ([3, 3], [5, 1])
    assert (history.received, history.deliveries) == ([10, 0], [100, 50])
    assert (history.allowed, history.denied, history.lag_ms) == ([7, 0], [2, 3], [1, 2])


def test_nothing_was_recorded_before_the_first_step() -> None:
    assert NodeHistory().as_published().connections == []
    assert recorded(Totals(connects=1_000)).as_published().connects == []
    assert recorded(Totals(connects=1_000)).rates()[1] == []


def test_steps_are_forgotten_after_five_minutes() -> None:
    history_ = recorded(*(Totals(connects=n) for n in range(2 * STEPS_MAX)))
    assert history_.as_published().connects == [1] * STEPS_MAX


def test_a_second_sample_of_a_step_changes_nothing() -> None:
    history_ = recorded(Totals(), Totals(connects=4))
    before = history_.as_published()
    history_.record(BEGAN_MS + STEP_MS + 1, Totals(connects=9), 3, 0)
    assert history_.as_published() == before


def test_the_steps_in_which_a_process_was_frozen_are_empty() -> None:
    history_ = recorded(Totals(), Totals(connects=4))
    history_.record(BEGAN_MS + 5 * STEP_MS, Totals(connects=10), 3, 0)
    assert history_.as_published().connects == [4, 0, 0, 0, 6]
    history_.record(BEGAN_MS + 10**9 * STEP_MS, Totals(connects=11), 3, 0)
    assert history_.as_published().connects == [0] * (STEPS_MAX - 1) + [1]


def test_the_record_begins_anew_where_the_clock_was_put_back() -> None:
    history_ = recorded(Totals(), Totals(connects=4))
    history_.record(BEGAN_MS - 10 * STEP_MS, Totals(connects=10), 3, 0)
    assert history_.as_published().connects == []
    history_.record(BEGAN_MS - 9 * STEP_MS, Totals(connects=12), 3, 0)
    assert history_.as_published().connects == [2]


def test_a_rate_is_the_mean_of_ten_seconds() -> None:
    totals = [Totals(connects=100 * n, closes=n, decisions={("denied", "redis"): 10 * n}) for n in range(20)]
    rates, decisions = recorded(*totals).rates()
    assert (rates.connects, rates.closes, rates.deliveries) == (50.0, 0.5, 0.0)
    assert decisions == [DecisionRate("denied", "redis", 5.0)]
    rates, _ = recorded(*totals[:2]).rates()
    assert rates.connects == 50.0


def test_a_decision_of_a_new_kind_counts_from_nothing() -> None:
    _, decisions = recorded(Totals(), Totals(decisions={("allowed", "open"): 6})).rates()
    assert decisions == [DecisionRate("allowed", "open", 3.0)]


def test_lately_is_a_minute() -> None:
    history_ = recorded(*(Totals(slow_closes=n) for n in range(100)))
    before, now = history_.over_last_minute()
    assert (now.slow_closes, now.slow_closes - before.slow_closes) == (99, 30)
    assert history_.worst_lag_ms() == 99


def test_the_worst_lag_is_that_of_ten_seconds() -> None:
    history_ = NodeHistory()
    for number, lag_ms in enumerate([9, 9, 7, 1, 2, 1, 2]):
        history_.record(BEGAN_MS + number * STEP_MS, Totals(), 3, lag_ms=lag_ms)
    assert history_.worst_lag_ms() == 7
