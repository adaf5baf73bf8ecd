"""What is checked is what the documentation promises."""

from pathlib import Path

from tests.simulation.invariants import ALWAYS, EMPTY, MOMENTS, QUIET, promise

PAGE = Path(__file__).parents[2] / "docs" / "presence.md"


def _promised() -> list[str]:
    section = PAGE.read_text().split("### What is promised in each failure\n")[1]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [row.split("|")[2].strip() for row in rows]


def test_every_sentence_of_the_table_is_an_invariant_word_for_word_and_the_other_way_round() -> None:
    assert [promise(invariant) for invariant in (*ALWAYS, *MOMENTS, *QUIET, *EMPTY)] == _promised()
