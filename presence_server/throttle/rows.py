"""Rules as rows for the store's script: quotas of the calendar go by this machine's time of day."""

import time

from presence_server.throttle.rule import Rule, RuleRow


def wall_us() -> int:
    """Return this machine's time of day, µs since 1970."""
    return time.time_ns() // 1_000


def row_of(rule: Rule) -> RuleRow:
    """Return a rule's present row; that of a rule without a calendar never changes."""
    return rule.row_at(0 if rule.calendar is None else wall_us())
