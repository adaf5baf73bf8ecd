"""How long what ended waits before it is started again."""

from presence_server.workers.restart_backoff import FIRST_S, MOST_S, STABLE_S, RestartBackoff


def test_the_pause_doubles_from_one_end_to_the_next_up_to_a_bound() -> None:
    backoff = RestartBackoff()
    pauses = [backoff.pause_s(1.0) for _ in range(100)]
    assert pauses[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert pauses[-1] == MOST_S


def test_after_a_long_run_it_begins_anew() -> None:
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.pause_s(STABLE_S - 0.1)
    assert backoff.pause_s(STABLE_S) == FIRST_S
    assert backoff.pause_s(0.0) == 2 * FIRST_S
