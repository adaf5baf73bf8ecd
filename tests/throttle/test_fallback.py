"""Decisions without the store, by `on_error`, for each reason why there is no answer."""

import pytest

from presence_server.rates import OnError
from presence_server.throttle.batch import GivenUp
from presence_server.throttle.fallback import AskedDecision, Fallback
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import Rule
from presence_server.throttle.share import Shares

TWO = Rule("two", "2/1h")
ASKED = AskedDecision([TWO], ["place"], "k", 1)


def judged(fallback: Fallback, why: GivenUp, *, charge: bool = True) -> list[tuple[bool, int, str]]:
    found = []
    for _ in range(3):
        (verdict,), source = fallback.judge(ASKED, why, charge=charge)
        found.append((verdict.allowed, verdict.remaining, str(source)))
    return found


@pytest.mark.parametrize(
    ("on_error", "why", "expected"),
    [
        ("open", GivenUp.AWAY, [(True, 2, "open")] * 3),
        ("closed", GivenUp.AWAY, [(False, 0, "closed")] * 3),
        ("closed", GivenUp.LATE_SELF, [(False, 0, "closed")] * 3),
        ("local", GivenUp.LATE_STORE, [(True, 1, "local"), (True, 0, "local"), (False, 0, "local")]),
        ("open", GivenUp.LATE_SELF, [(True, 1, "local"), (True, 0, "local"), (False, 0, "local")]),
        ("share", GivenUp.AWAY, [(True, 0, "share"), (False, 0, "share"), (False, 0, "share")]),
    ],
)
def test_a_hit_is_decided_as_on_error_says(
    on_error: OnError, why: GivenUp, expected: list[tuple[bool, int, str]]
) -> None:
    fallback = Fallback(on_error, ThrottleMemoryStore(), Shares(2))
    assert judged(fallback, why) == expected


@pytest.mark.parametrize("on_error", ["open", "local", "share"])
@pytest.mark.parametrize("why", list(GivenUp))
def test_a_look_charges_nothing_whatever_the_store_did(on_error: OnError, why: GivenUp) -> None:
    memory = ThrottleMemoryStore()
    looks = judged(Fallback(on_error, memory, Shares(2)), why, charge=False)
    assert len(set(looks)) == 1
    assert looks[0][0] is True
    assert memory.peek(TWO, "k", 1).remaining == 2


def test_a_slot_is_given_by_this_process_where_it_decides_alone() -> None:
    jobs = Rule("jobs", "1/60s", "slots")
    for on_error, expected in (
        ("local", [(True, "local"), (False, "local")]),
        ("share", [(True, "local"), (False, "local")]),
        ("open", [(True, "open"), (True, "open")]),
        ("closed", [(False, "closed"), (False, "closed")]),
    ):
        fallback = Fallback(on_error, ThrottleMemoryStore(), Shares())  # type: ignore[arg-type]  # in a tuple
        found = [fallback.judge_slot(jobs, "k", token) for token in "ab"]
        assert [(verdict.allowed, source) for verdict, source in found] == expected
