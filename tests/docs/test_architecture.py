"""ARCHITECTURE.md names what there is, and its table of states is the one that decides."""

import re
from typing import Final

from presence_server.cluster.connectivity import (
    TABLE,
    ClockStepped,
    Effect,
    Event,
    HistoryBroken,
    Lost,
    NodeForgotten,
    OthersSilent,
    OwnMemberLost,
    Rejoined,
    Restored,
    Row,
    State,
    Suspended,
)
from tests.docs.pages import PROJECT, read, rows, section

EVENTS: Final[dict[str, type[Event]]] = {
    "contact is lost": Lost,
    "contact is restored": Restored,
    "this process was frozen": Suspended,
    "a member of this node was lost": OwnMemberLost,
    "the store did not know this node": NodeForgotten,
    "the history of a room was lost": HistoryBroken,
    "everything is answered, and the hold is over": Rejoined,
    "the store's clock was put forward": ClockStepped,
    "this node begins, and all others are silent": OthersSilent,
}


EFFECTS: Final = {
    Effect.ISOLATE: "serve from memory",
    Effect.RENEW_CONTACT: "give the connections up",
    Effect.REPEAT_CLAIMS: "repeat claims",
    Effect.READ_ROOMS: "read or compare rooms",
    Effect.ENTER_MEMBERS: "enter members",
    Effect.REPLAY_DEPARTURES: "tell departures",
    Effect.NOTE_ANEW: "note connections and rooms anew",
    Effect.FORGET_ISOLATION: "forget what was done in memory",
    Effect.SHOW_STALENESS: "tell staleness",
    Effect.DELIVER_UNSENT: "deliver here what has not come back",
    Effect.FOLLOW_POLICY: "look at the policy",
}
"""How the page names effects; members that are still provisional leave when doubt is over, after no event."""
AT_THE_END: Final = "once more at the end"


def _rows() -> dict[tuple[State, type[Event]], tuple[State, list[str]]]:
    """Return the state that follows and the names of the effects, in order, by state and event."""
    table = read("ARCHITECTURE.md").split("| state | event | then | effects |\n")[1].split("\n\n")[0]
    rows = {}
    for line in table.splitlines()[1:]:
        states, event, then, effects = (cell.strip() for cell in line.strip("|").split("|"))
        named = [effect.partition(",")[0] for effect in effects.split("; ")]
        for state in (State[name] for name in states.split(", ")):
            rows[state, EVENTS[event]] = (state if then == "the same" else State[then], named)
    return rows


def _is_idle(key: tuple[State, type[Event]], row: Row) -> bool:
    """Tell whether nothing follows; of a member that is lost during a rejoin follows what the end of it does."""
    return row == Row(key[0]) and key != (State.REJOINING, OwnMemberLost)


def test_every_row_that_does_something_is_in_the_table_with_what_it_does_in_order() -> None:
    expected = {}
    for key, row in TABLE.items():
        named = [EFFECTS[effect] for effect in row.effects]
        named += ["doubt"] * row.doubt + ["hold"] * row.hold
        if key[0] is State.REJOINING and key[1] in {OwnMemberLost, NodeForgotten, HistoryBroken}:
            named.append(AT_THE_END)
        if not _is_idle(key, row):
            expected[key] = (row.state, named)
    assert _rows() == expected


def test_what_no_row_does_is_what_the_end_of_doubt_does() -> None:
    assert {effect for row in TABLE.values() for effect in row.effects} == set(EFFECTS)
    assert set(Effect) - set(EFFECTS) == {Effect.RESOLVE_PROVISIONAL}


def test_every_package_and_module_has_a_row_that_says_what_it_owns() -> None:
    table = section(read("ARCHITECTURE.md"), "## The way through it").split("Where is …?")[0]
    owners = {name.strip("`/") for first, *_ in rows(table) for name in first.split(", ")}
    product = [path for path in (PROJECT / "presence_server").iterdir() if not path.name.startswith("_")]
    assert {path.stem for path in product if path.is_dir() or path.suffix == ".py"} <= owners


def test_every_file_that_answers_a_question_exists() -> None:
    questions = section(read("ARCHITECTURE.md"), "## The way through it").split("Where is …?")[1]
    files = [name for _, answer in rows(questions) for name in re.findall(r"`([\w/]+(?:\.py|/))`", answer)]
    missing = []
    folder = ""
    for name in files:  # a name alone is in the folder of the one before
        folder = name.rpartition("/")[0] if "/" in name else folder
        if not any((PROJECT / "presence_server" / place / name).exists() for place in ("", folder)):
            missing.append(name)
    assert "presence/state.py" in files
    assert missing == []
