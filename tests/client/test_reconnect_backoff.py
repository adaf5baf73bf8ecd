"""The range of a close code says what a client does next."""

import pytest

from presence_server.client.reconnect_backoff import (
    BACKOFF_BASE_S,
    BACKOFF_CAP_S,
    after_close,
    after_refusal,
    jittered,
)

MOST = 0.999999


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4000, 4001, 4003, 4008, 4009, 4010, 4099])
def test_told_to_stop_or_at_fault_a_client_stays_away(code: int) -> None:
    assert after_close(code, None, 0, MOST) is None
    assert after_close(code, 100, 0, MOST) is None


@pytest.mark.parametrize("code", [4200, 4201, 4299])
def test_told_to_reconnect_a_client_comes_back_when_the_server_says(code: int) -> None:
    assert after_close(code, 1500, 0, MOST) == 1.5
    assert after_close(code, None, 0, MOST) == pytest.approx(BACKOFF_BASE_S, rel=0.01)


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 4100, 4101, 4102])
def test_otherwise_a_client_backs_off(code: int) -> None:
    assert after_close(code, None, 0, MOST) == pytest.approx(2 * BACKOFF_BASE_S, rel=0.01)
    assert after_close(code, None, 3, MOST) == pytest.approx(16 * BACKOFF_BASE_S, rel=0.01)
    assert after_close(code, 7000, 0, 0.0) == 7


def test_a_server_that_keeps_closing_is_left_alone_for_longer() -> None:
    delays = [after_close(4200, 10, attempt, MOST) for attempt in range(4)]
    bounds = [0.01, 2 * BACKOFF_BASE_S, 4 * BACKOFF_BASE_S, 8 * BACKOFF_BASE_S]
    assert delays == pytest.approx(bounds, rel=0.01)


def test_jitter_is_full_and_capped() -> None:
    assert jittered(3, 0.0) == 0
    assert jittered(3, 0.5) == BACKOFF_BASE_S * 4
    assert jittered(10_000, MOST) == pytest.approx(BACKOFF_CAP_S, rel=0.01)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
def test_some_refusals_do_not_change_by_asking_again(status: int) -> None:
    assert after_refusal(status, "5", 0, MOST) is None


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_the_least_to_wait(status: int) -> None:
    assert after_refusal(status, "30", 0, 0.0) == 30
    assert after_refusal(status, "30", 0, MOST) == pytest.approx(30 + 2 * BACKOFF_BASE_S, rel=0.01)
    assert after_refusal(status, None, 0, 0.0) == 0
    assert after_refusal(status, "Wed, 21 Oct 2026 07:28:00 GMT", 0, 0.5) == BACKOFF_BASE_S
