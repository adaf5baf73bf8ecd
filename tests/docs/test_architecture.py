"""The table of states in ARCHITECTURE.md is the one that decides."""

from typing import Final

from presence_server.cluster.connectivity import (
    TABLE,
    ClockStepped,
    Event,
    HistoryBroken,
    Lost,
    OwnMemberLost,
    Rejoined,
    Restored,
    Row,
    State,
    Suspended,
)
from tests.docs.pages import read

EVENTS: Final[dict[str, type[Event]]] = {
    "contact is lost": Lost,
    "contact is restored": Restored,
    "this process was frozen": Suspended,
    "a member of this node was lost": OwnMemberLost,
    "the history of a room was lost": HistoryBroken,
    "everything is answered, and the hold is over": Rejoined,
    "the store's clock was put forward": ClockStepped,
}


def _rows() -> dict[tuple[State, type[Event]], tuple[State, str]]:
    """Return the state that follows and the effects as text, by state and event."""
    table = read("ARCHITECTURE.md").split("| state | event | then | effects |\n")[1].split("\n\n")[0]
    rows = {}
    for line in table.splitlines()[1:]:
        states, event, then, effects = (cell.strip() for cell in line.strip("|").split("|"))
        for state in (State[name] for name in states.split(", ")):
            rows[state, EVENTS[event]] = (state if then == "the same" else State[then], effects)
    return rows


def test_every_row_that_does_something_is_in_the_table_and_leads_where_it_says() -> None:
    documented = {key: then for key, (then, _) in _rows().items()}
    idle = {key for key, row in TABLE.items() if row == Row(key[0])}
    # The one row without effects of its own: what it asks for is done when the rejoin would be over.
    idle -= {(State.REJOINING, OwnMemberLost)}
    assert documented == {key: row.state for key, row in TABLE.items() if key not in idle}


def test_the_rows_name_hold_and_doubt_where_the_table_has_them() -> None:
    for key, (_, effects) in _rows().items():
        assert ("hold" in effects, "doubt" in effects) == (TABLE[key].hold, TABLE[key].doubt), key
