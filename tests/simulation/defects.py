"""Defects that this project had, to be put back: a check that cannot fail proves nothing.

The numbers are those of the list that they were found with. What is not here has no switch yet.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, NamedTuple

from presence_server.bus.redis import RedisBus
from presence_server.cluster.connectivity import Connectivity, Effect, Event, HistoryBroken, OwnMemberLost
from presence_server.presence.state import Done, Outcome
from presence_server.rooms.rooms import Rooms


class Defect(NamedTuple):
    """One defect: what was wrong, and what puts it back for a while."""

    what: str
    put_back: Callable[[], AbstractContextManager[None]]


@contextmanager
def _replaced(owner: type, name: str, value: object) -> Iterator[None]:
    """Have a class behave otherwise for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _no_lost_history() -> AbstractContextManager[None]:
    on = Connectivity.on

    def deaf(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        return () if isinstance(event, OwnMemberLost | HistoryBroken) else on(self, event, now_ms)

    return _replaced(Connectivity, "on", deaf)


def _older_record_adopted() -> AbstractContextManager[None]:
    entered_again: Any = Rooms._entered_again

    def adopt(self: Rooms, membership: Any, entered: Any, request_id: int | None, outcome: Outcome) -> None:
        if isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
        entered_again(self, membership, entered, request_id, outcome)

    return _replaced(Rooms, "_entered_again", adopt)


def _no_hold() -> AbstractContextManager[None]:
    return _replaced(Connectivity, "hold_rest_ms", lambda self, now_ms: 0)


def _delivered_here_again() -> AbstractContextManager[None]:
    def give(self: RedisBus[Any], room: str, parcel: Any) -> None:
        for event, sent in parcel.events:
            self._send_here(room, event, sent)

    return _replaced(RedisBus, "_give_here", give)


def _never_trusted() -> AbstractContextManager[None]:
    on = Connectivity.on

    def doubting(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        effects = on(self, event, now_ms)
        self.trusted = False
        return effects

    return _replaced(Connectivity, "on", doubting)


DEFECTS: Final[dict[int, Defect]] = {
    1: Defect("FLUSHALL with connections kept is not taken for a return", _no_lost_history),
    4: Defect("an older record is adopted over newer local state", _older_record_adopted),
    6: Defect("nobody asks rooms to hold after a silence", _no_hold),
    11: Defect("a message whose PUBLISH was carried out is delivered here again", _delivered_here_again),
    12: Defect("what the store says is never trusted after a cut", _never_trusted),
}
"""By the number that they had when they were found."""
