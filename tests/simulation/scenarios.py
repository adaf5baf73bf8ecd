"""A few plans that the simulator plays, and real nodes on real servers, so that the two cannot drift apart."""

from typing import Final

from tests.simulation.plan import (
    Close,
    Cut,
    CutAll,
    CutPubsub,
    Drop,
    FlushAll,
    FreezeAll,
    FreezeNode,
    FreezeStore,
    Join,
    KillNode,
    Leave,
    Plan,
    Publish,
    RestartStore,
    ScriptFlush,
    Start,
    Step,
    Update,
    Watch,
)

CLIENTS: Final = 8
NODES: Final = 2


def _company() -> list[Step]:
    """Eight clients on two nodes come, talk, change, lose connections, leave, over eight seconds."""
    steps: list[Step] = []
    for who in range(CLIENTS):
        steps.append(Start(50 * who, who, who % NODES))
        steps.append(Watch(50 * who + 1, who, "lobby") if who == 7 else Join(50 * who + 1, who, "lobby"))
    for turn in range(12):
        at_ms = 1_500 + 500 * turn
        steps += [Publish(at_ms, turn % CLIENTS, "lobby"), Update(at_ms + 100, (turn + 3) % CLIENTS, "lobby")]
    return [
        *steps,
        Drop(2_000, 1, 0),
        Close(3_200, 2, 0, back_ms=200),
        Leave(4_700, 3, "lobby"),
        Join(5_600, 3, "lobby"),
        Close(6_200, 4, 0),
    ]


def _with(*disasters: Step) -> Plan:
    steps = sorted([*_company(), *disasters], key=lambda step: step.at_ms)
    return Plan(1, tuple(steps), CLIENTS, NODES)


SCENARIOS: Final[dict[str, Plan]] = {
    "nothing breaks": _with(),
    "a node is killed": _with(KillNode(3_000, 1, 2_000)),
    "a node is frozen for longer than the TTL": _with(FreezeNode(3_000, 1, 8_000)),
    "the store is frozen": _with(FreezeStore(3_000, 2_000)),
    "the store dies and is empty": _with(RestartStore(3_000, 1_000)),
    "the store forgets its scripts": _with(ScriptFlush(3_000)),
    "FLUSHALL": _with(FlushAll(3_000)),
    "a node is cut off for a moment": _with(Cut(3_000, 0, 500)),
    "a node is deaf": _with(CutPubsub(3_000, 0, 3_000)),
    "all nodes are frozen for longer than the TTL": _with(FreezeAll(3_000, 8_000)),
    "all nodes are cut off for longer than the TTL": _with(CutAll(3_000, 8_000)),
}
"""By what breaks."""
