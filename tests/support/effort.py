"""How much the tests try that could try any amount: what a developer waits for, or all of it in CI."""

import os
from typing import Final

THOROUGH: Final = "CI" in os.environ
"""Whether to try all: where `CI` is set, as in `.ci/run` and by `CI=1 make test`."""


def effort(quick: int, thorough: int) -> int:
    """Return how many of something to try: `thorough` in CI, else `quick`."""
    return thorough if THOROUGH else quick
