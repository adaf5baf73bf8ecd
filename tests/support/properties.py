"""How hypothesis runs here: the same examples every time, without deadlines, bounded in time."""

import os
from typing import Final

from hypothesis import HealthCheck, settings

EXAMPLES_MAX: Final = int(os.environ.get("EXAMPLES_MAX", "1000000"))
"""`make mutate` runs the same tests hundreds of times, with fewer examples."""


def examples(number: int, *, steps: int = 50) -> settings:
    """Try `number` examples, of at most `steps` steps each where they have steps."""
    return settings(
        max_examples=min(number, EXAMPLES_MAX),
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
