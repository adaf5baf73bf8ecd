"""What is promised, one function a promise: each yields what broke it.

The first paragraph of each docstring is the sentence of docs/presence.md, word for word; a test compares them.
`ALWAYS` hold of a whole run, `MOMENTS` of each moment of it, `QUIET` of the moment when nothing has been broken for a
TTL, a grace period and two heartbeats, `EMPTY` once everybody has left.
"""

from collections.abc import Callable
from typing import Final

from tests.simulation.answers import answers_true
from tests.simulation.closing import replaced_by_another, stays_out
from tests.simulation.evidence import Broken, Run, Scene
from tests.simulation.memberships import (
    leaves_heard,
    leaves_heard_on_return,
    no_false_leave,
    one_join_one_leave,
    reasons,
    stays_gone,
)
from tests.simulation.moments import (
    api_exact,
    bounded,
    nothing_left,
    nothing_waits,
    one_connection,
    rosters_exact,
    updates_kept,
)
from tests.simulation.serving import closed_for_a_reason, served, told_on_one_node
from tests.simulation.telling import (
    delivered,
    fold,
    in_order,
    join_before_message,
    never_twice,
    once_in_a_diff,
    users_told,
    versions_rise,
)

ALWAYS: Final[tuple[Callable[[Run], Broken], ...]] = (
    fold,
    once_in_a_diff,
    no_false_leave,
    leaves_heard,
    leaves_heard_on_return,
    stays_gone,
    one_join_one_leave,
    reasons,
    versions_rise,
    join_before_message,
    delivered,
    told_on_one_node,
    users_told,
    never_twice,
    answers_true,
    replaced_by_another,
    stays_out,
    served,
    closed_for_a_reason,
    in_order,
)
MOMENTS: Final[tuple[Callable[[Scene], Broken], ...]] = (bounded,)
QUIET: Final[tuple[Callable[[Scene], Broken], ...]] = (
    rosters_exact,
    api_exact,
    updates_kept,
    nothing_waits,
    one_connection,
)
EMPTY: Final[tuple[Callable[[Scene], Broken], ...]] = (nothing_left,)


def promise(invariant: object) -> str:
    """Return an invariant's sentence."""
    return " ".join((invariant.__doc__ or "").split("\n\n")[0].split())
