"""Plans that meet old defects: in drawn ones what each needs comes together too seldom, or not at all."""

from typing import Final

from tests.simulation.plan import (
    Close,
    Cut,
    CutPubsub,
    Drop,
    FlushAll,
    Join,
    KillNode,
    Leave,
    LoseAnswers,
    Plan,
    Publish,
    RestartStore,
    Slow,
    Start,
    Step,
    Twins,
    Update,
    Watch,
)


def _among(clients: int, *steps: Step, members: int | None = None, nodes: int = 2, seed: int = 1) -> Plan:
    """Return a plan with clients who come one after the other; `members` of them, or all, join the lobby."""
    company: list[Step] = []
    for who in range(clients if members is None else members):
        company += [Start(20 * who, who, who % nodes), Join(20 * who + 1, who, "lobby")]
    ordered = sorted([*company, *steps], key=lambda step: step.at_ms)
    return Plan(seed, tuple(ordered), clients, nodes)


def _stay_for_a_moment(who: int, at_ms: int) -> list[Step]:
    return [Start(at_ms, who, 0), Join(at_ms + 50, who, "lobby"), Leave(at_ms + 200, who, "lobby")]


DEFECT_SCENARIOS: Final[dict[str, Plan]] = {
    "3": _among(
        *(4, Join(1_000, 0, "attic"), Join(1_000, 2, "hall"), Slow(2_900, 0, 12_000, 300)),
        *(Leave(3_000, 0, "attic"), Leave(3_300, 2, "hall"), CutPubsub(4_000, 0, 1_830)),
    ),
    "4": _among(
        *(16, Slow(2_000, 0, 9_000, 300), CutPubsub(3_000, 0, 500)),
        *(Update(5_000 + 150 * who, who, "lobby") for who in range(0, 16, 2)),
        *(Update(9_000, who, "lobby") for who in range(0, 16, 2)),
    ),
    "5b": _among(4, Cut(3_000, 0, 2_500), Drop(3_900, 0, 0), FlushAll(9_000), Drop(11_000, 0, 1)),
    "5c": _among(
        *(12, Join(1_000, 0, "hall"), Join(1_000, 1, "hall"), LoseAnswers(3_000, 0, 1, silently=True)),
        *(Join(3_000 + 3 * who, who, "hall") for who in range(2, 12, 2)),
    ),
    "7": _among(
        *(5, Start(500, 4, 0), Watch(501, 4, "lobby"), Cut(3_000, 0, 3_000), Cut(3_000, 1, 3_000)),
        Twins(3_600, 4, 0, 1, 100),
        members=4,
    ),
    "10": _among(160, KillNode(4_000, 1, 500), *(Close(4_000, who, 0) for who in range(1, 160, 2))),
    "11": _among(
        *(4, LoseAnswers(3_200, 0, 1, silently=True)),
        *(Publish(3_000 + 7 * turn, 2 * (turn % 2), "lobby") for turn in range(60)),
    ),
    "12": _among(6, Cut(3_000, 0, 400), Leave(3_100, 1, "lobby"), nodes=3, seed=3),
    "13": _among(4, Leave(4_000, 0, "lobby"), RestartStore(6_500, 100, 3_000)),
    "14a": _among(
        13,
        *(Drop(3_000 + 1_800 * who, who, who % 2) for who in range(12)),
        *(Leave(4_400 + 1_800 * who, who, "lobby") for who in range(12)),
    ),
    "14b": _among(
        *(16, Cut(3_000, 0, 9_000)),
        *(step for who in range(12) for step in _stay_for_a_moment(4 + who, 3_900 + 300 * who)),
        members=4,
    ),
}
"""By the defect's number."""
