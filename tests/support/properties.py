"""How hypothesis runs here: the same examples every time, without deadlines, bounded in time.

Where `CI` is not set, a test tries the first quarter of its examples, and at least 50.
"""

import os
from typing import Final

from hypothesis import HealthCheck, settings

from tests.support.effort import effort

QUICK_MIN: Final = 50
EXAMPLES_MAX: Final = int(os.environ.get("EXAMPLES_MAX", "1000000"))
"""`make mutate` runs the same tests hundreds of times, with fewer examples."""


def by_default() -> None:
    """Have properties that say nothing try 100; hypothesis' own deadline, 0.2 s, is too short on a busy machine."""
    settings.register_profile("here", examples(100))
    settings.load_profile("here")


def examples(number: int, *, steps: int = 50) -> settings:
    """Try `number` examples, of at most `steps` steps each where they have steps."""
    quick = max(number // 4, min(number, QUICK_MIN))
    return settings(
        max_examples=min(effort(quick, number), EXAMPLES_MAX),
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
