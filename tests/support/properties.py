"""How hypothesis runs here: the same examples every time, without deadlines, bounded in time."""

from hypothesis import HealthCheck, settings


def examples(number: int, *, steps: int = 50) -> settings:
    """Try `number` examples, of at most `steps` steps each where they have steps."""
    return settings(
        max_examples=number,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
