"""A plan for each kind of failure. Real nodes play some of them too, so that world and simulator cannot drift apart."""

from random import Random
from typing import Final

from tests.simulation.plan import (
    Close,
    Cut,
    CutAll,
    CutPubsub,
    Disconnect,
    Drop,
    FlushAll,
    FreezeAll,
    FreezeNode,
    FreezeStore,
    Join,
    Kick,
    KillNode,
    Leave,
    Plan,
    Publish,
    Remove,
    RestartStore,
    ScriptFlush,
    Start,
    Step,
    Twins,
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


def _reloading_while_wiped(seed: int) -> Plan:
    """Half of the pages reload within 0.6 s around four FLUSHALLs, three times."""
    chance = Random(seed)  # noqa: S311 - a seed, not a secret
    crowd = 2 * CLIENTS
    steps: list[Step] = []
    for who in range(crowd):
        steps += [Start(100 + who * 50, who, who % NODES), Join(101 + who * 50, who, "lobby")]
    for at_ms in (6_000, 12_000, 18_000):
        for who in chance.sample(range(crowd), crowd // 2):
            when_ms, node = at_ms + chance.randrange(600), chance.randrange(NODES)
            steps.append(
                Drop(when_ms, who, node)
                if chance.random() < 0.5
                else Close(when_ms, who, node, chance.choice((100, 300, 600)))
            )
        steps += [FlushAll(at_ms + chance.randrange(900)) for _ in range(4)]
    return Plan(seed, tuple(sorted(steps, key=lambda step: step.at_ms)), crowd, NODES)


SCENARIOS: Final[dict[str, Plan]] = {
    "nothing breaks": _with(),
    "a node is killed": _with(KillNode(3_000, 1, 2_000)),
    "a node is frozen for longer than the TTL": _with(FreezeNode(3_000, 1, 8_000)),
    "the store is frozen": _with(FreezeStore(3_000, 2_000)),
    "the store dies and is empty": _with(RestartStore(3_000, 1_000)),
    "the store forgets its scripts": _with(ScriptFlush(3_000)),
    "FLUSHALL": _with(FlushAll(3_000)),
    "pages reload while FLUSHALL is repeated": _reloading_while_wiped(1),
    "a node is cut off for a moment": _with(Cut(3_000, 0, 500)),
    "a node is deaf": _with(CutPubsub(3_000, 0, 3_000)),
    "all nodes are frozen for longer than the TTL": _with(FreezeAll(3_000, 8_000)),
    "all nodes are cut off for longer than the TTL": _with(CutAll(3_000, 8_000)),
    "nodes are cut off and come back one after the other": _with(Cut(3_000, 0, 8_000), Cut(3_000, 1, 9_500)),
    "a node hangs for longer than the TTL": _with(Cut(3_000, 1, 8_000, "stalled")),
    "the store is frozen for longer than the TTL": _with(FreezeStore(3_000, 8_000)),
    "pages are back when their grace is about to end": _with(
        *(Close(3_000 + 200 * who, who, 1 - who % NODES, back_ms=850 + 50 * who) for who in range(7)),
        *(Drop(8_000 + 200 * who, who, who % NODES, 0, 2_850 + 50 * who) for who in range(7)),
    ),
    "two connections resume with one token": _with(
        *(Twins(3_000 + 500 * who, who, 0, 1, 5 * who) for who in range(6))
    ),
    "backends remove and close members of a frozen node": _with(
        FreezeNode(3_000, 1, 8_000),
        Remove(3_500, 0, 1, "lobby"),
        Kick(4_000, 0, 3),
        Disconnect(4_500, 0, 5, 10_000),
    ),
    "backends remove and close members of a node that is cut off": _with(
        Cut(3_000, 1, 8_000),
        Remove(3_500, 0, 1, "lobby"),
        Kick(4_000, 0, 3),
        Disconnect(4_500, 0, 5, 10_000),
    ),
}
"""By what breaks."""
