"""Defects that this project had, to be put back: a check that cannot fail proves nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple


class Defect(NamedTuple):
    """One defect: what was wrong, and what puts it back for a while."""

    what: str
    put_back: Callable[[], AbstractContextManager[object]]


DEFECTS: Final[dict[int, Defect]] = {}
"""By the number that they had when they were found."""
