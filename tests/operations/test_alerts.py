"""What is degraded, in words."""

from typing import Any

import pytest

from presence_server.operations.alerts import Condition, alerts
from presence_server.operations.history import Totals
from presence_server.registry.figures import TEXT_MAX

GOOD = Condition(
    node="n1",
    problems={},
    draining=False,
    isolated=False,
    rejoining=False,
    limiter_away=False,
    on_error="open",
    is_overloaded=False,
    policy_problem="",
    lag_ms=99,
    connections=899,
    connections_max=1_000,
    unsent_bytes=(128 << 20) - 1,
    unsent_max=256 << 20,
    minute_ago=Totals(slow_closes=7, faults=7, store_refused_calls=7, undecided=7, shed=7),
    now=Totals(slow_closes=7, faults=7, store_refused_calls=7, undecided=7, shed=7),
)


def test_nothing_is_said_of_a_node_that_is_well() -> None:
    assert alerts(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "level", "kind", "says"),
    [
        (
            {"isolated": True, "problems": {"pubsub": "silent for 3 s"}},
            "critical",
            "isolated",
            "silent for 3 s",
        ),
        ({"rejoining": True}, "warning", "rejoining", "enters its members again"),
        ({"problems": {"pubsub": "silent for 3 s"}}, "warning", "not_ready", "pubsub: silent for 3 s"),
        ({"draining": True}, "notice", "draining", "shutting down"),
        ({"limiter_away": True}, "warning", "limiter_away", 'on_error = "open"'),
        ({"now": GOOD.now._replace(undecided=9)}, "warning", "limiter_late", "2 decisions"),
        ({"policy_problem": "rule x"}, "warning", "policy", "rule x"),
        ({"is_overloaded": True, "now": GOOD.now._replace(shed=19)}, "critical", "overloaded", "shed 12"),
        ({"lag_ms": 100}, "warning", "lag", "100 ms late"),
        ({"lag_ms": 1_000}, "critical", "lag", "1000 ms late"),
        ({"connections": 900}, "warning", "full", "900 of at most 1000"),
        ({"unsent_bytes": 128 << 20}, "warning", "unsent", "128 of at most 256 MiB"),
        ({"now": GOOD.now._replace(slow_closes=8)}, "warning", "slow_readers", "closed 1 slow"),
        ({"now": GOOD.now._replace(faults=8)}, "warning", "faults", "1 callbacks"),
        ({"now": GOOD.now._replace(store_refused_calls=8)}, "warning", "refused_calls", "1 calls"),
    ],
)
def test_what_is_degraded_is_said(changes: dict[str, Any], level: str, kind: str, says: str) -> None:
    (alert,) = alerts(GOOD._replace(**changes))
    assert (alert.level, alert.kind, alert.node) == (level, kind, "n1")
    assert says in alert.text


def test_the_worst_is_first_and_no_text_is_endless() -> None:
    found = alerts(GOOD._replace(draining=True, isolated=True, policy_problem="x" * 10_000))
    assert [alert.level for alert in found] == ["critical", "warning", "notice"]
    assert max(len(alert.text) for alert in found) == TEXT_MAX
