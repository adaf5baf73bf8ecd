"""Rules as the store is sent them now: quotas of the calendar go by this machine's time of day."""

import time

from presence_server.throttle.rule import Rule, RuleRow


def wall_us() -> int:
    """Return this machine's time of day, µs since 1970."""
    return time.time_ns() // 1_000


def row_of(rule: Rule) -> RuleRow:
    """Return a rule's row as it is now; without a calendar it is always the same."""
    return rule.row_at(0 if rule.calendar is None else wall_us())
