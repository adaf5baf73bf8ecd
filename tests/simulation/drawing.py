"""Draws the plan of a seed: clients that come, talk and go, backends, and disasters.

Of seeds from `THEMED_FROM` on the odd ones are drawn around a theme (`themes.py`); those below stay what they were.
"""

import random
from collections.abc import Callable
from typing import Final

import msgspec

from presence_server.protocol.messages import Mode
from tests.simulation import themes
from tests.simulation.plan import (
    BUSY_MS,
    CLIENTS,
    LEASED_MEMBERS,
    NODES,
    ROOMS,
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
    HalfOpen,
    Join,
    Kick,
    KillNode,
    Lease,
    Leave,
    LoseAnswers,
    LossyPubsub,
    Message,
    Page,
    Plan,
    Promote,
    Publish,
    Read,
    Refuse,
    Remove,
    RestartStore,
    Say,
    ScriptFlush,
    Signal,
    Slow,
    Start,
    Step,
    StepClock,
    Twins,
    Update,
    Watch,
    Way,
    lasts_ms,
)

RICH_FROM: Final = 1_000
"""Seeds below have fewer ingredients: what failed of them is written down, and stays what it was."""
THEMED_FROM: Final = 100_000
"""Seeds below have no theme."""
UNTHEMED_DAY: Final = 20_261_121
"""The day whose thousand seeds were drawn before there were themes, and are written down as well."""
LATER: Final = range(1_000_000_000, 100_000_000_000)
"""Seeds that are drawn around `themes.LATER_THEMES`, too."""
ANOTHER_SHARE: Final = 0.2
"""Of the plans with a theme, so many have another disaster as well."""
Draw = Callable[[random.Random, int], Step]
DURATIONS_MS: Final = (100, 200, 500, 900, 1_500, 2_500, 3_500, 5_000, 7_000, 9_000, 12_000)
UNNOTICED_MS: Final = (0, 0, 300, 1_500, 4_000)
AWAY_MS: Final = (0, 0, 800, 4_500)
WAYS: Final[tuple[Way, ...]] = ("refused", "refused", "stalled")
STEPS_MS: Final = (-7_200_000, -60_000, -5_000, -2_500, -900, 900, 2_500, 5_000, 20_000, 7_200_000)


def theme_of(seed: int) -> str:
    """Return the name of the theme that a seed's plan is drawn around; "": there is none."""
    if seed < THEMED_FROM or seed // 1_000 == UNTHEMED_DAY or seed % 2 == 0:
        return ""
    names = [*themes.THEMES, *(themes.LATER_THEMES if seed in LATER else ())]
    name: str = random.Random(f"theme {seed}").choice(names)  # noqa: S311 - the same every time
    return name


def draw_plan(seed: int, *, clients: int = CLIENTS, nodes: int = NODES) -> Plan:
    """Return the plan of a seed, always the same."""
    theme = theme_of(seed)
    chance = random.Random(seed)  # noqa: S311 - a run must be the same every time
    if theme:
        plan = themes.draw(theme, seed, chance)
        if chance.random() < ANOTHER_SHARE:
            another = _disaster(chance, plan.nodes, min(plan.ends_ms, BUSY_MS))
            steps = sorted([*plan.steps, another], key=lambda step: step.at_ms)
            plan = msgspec.structs.replace(plan, steps=tuple(steps))
        return plan
    actions: list[Step] = []
    for who in range(clients):
        came_ms = chance.randrange(2_500)
        actions.append(Start(came_ms, who, chance.randrange(nodes)))
        for room in chance.sample(ROOMS, chance.choice((1, 1, 2))):
            enter: Step = Join(came_ms + 1, who, room, _mode(chance))
            if chance.random() < 0.2:
                enter = Watch(came_ms + 1, who, room, _mode(chance))
            actions.append(enter)
    pause_ms = chance.choice((50, 100, 200, 400))
    at_ms = 3_000
    while at_ms < BUSY_MS:
        actions.append(_by_client(chance, at_ms, clients, nodes))
        if chance.random() < 0.05:
            actions.append(_by_backend(chance, at_ms, clients, nodes))
        at_ms += 1 + int(chance.expovariate(1 / pause_ms))
    actions += _disasters(chance, nodes)
    if seed >= RICH_FROM:
        actions += _more(chance, clients, nodes)
    actions.sort(key=lambda action: action.at_ms)
    return Plan(seed, tuple(actions), clients, nodes)


def _more(chance: random.Random, clients: int, nodes: int) -> list[Step]:
    """Return what the first seeds do not have: members without sockets, messages to users, answers lost silently."""
    drawn: list[Step] = []
    for _ in range(chance.randrange(20)):
        at_ms, node, who = (
            chance.randrange(3_000, BUSY_MS),
            chance.randrange(nodes),
            chance.randrange(clients),
        )
        drawn.append(Message(at_ms, node, who))
        drawn.append(Lease(at_ms, node, chance.randrange(LEASED_MEMBERS), chance.choice(ROOMS)))
    if chance.random() < 0.2:
        at_ms = chance.randrange(4_000, BUSY_MS)
        drawn.append(LoseAnswers(at_ms, chance.randrange(nodes), chance.choice((1, 1, 3)), silently=True))
    return drawn


def _mode(chance: random.Random) -> Mode:
    return chance.choices(("full", "count", "none"), (16, 3, 1))[0]


def _by_client(chance: random.Random, at_ms: int, clients: int, nodes: int) -> Step:
    who, room, node = chance.randrange(clients), chance.choice(ROOMS), chance.randrange(nodes)
    draws: list[tuple[int, Callable[[], Step]]] = [
        (14, lambda: Join(at_ms, who, room, _mode(chance))),
        (3, lambda: Watch(at_ms, who, room, _mode(chance))),
        (6, lambda: Leave(at_ms, who, room)),
        (20, lambda: Update(at_ms, who, room, chance.choice(("none", "none", "right", "wrong")))),
        (20, lambda: Publish(at_ms, who, room)),
        (5, lambda: Signal(at_ms, who, room)),
        (3, lambda: Page(at_ms, who, room)),
        (10, lambda: Drop(at_ms, who, node, chance.choice(UNNOTICED_MS), chance.choice(AWAY_MS))),
        (5, lambda: Close(at_ms, who, node, chance.choice((None, 100, 500, 2_000)))),
        (4, lambda: Twins(at_ms, who, node, chance.randrange(nodes), chance.choice((0, 0, 5, 400)))),
        (10, lambda: Start(at_ms, who, node)),
    ]  # fmt: skip
    return chance.choices([draw for _, draw in draws], [weight for weight, _ in draws])[0]()


def _by_backend(chance: random.Random, at_ms: int, clients: int, nodes: int) -> Step:
    who, room, node = chance.randrange(clients), chance.choice(ROOMS), chance.randrange(nodes)
    ban_ms = chance.choice((None, None, 3_000, 10_000))
    draws: list[tuple[int, Callable[[], Step]]] = [
        (4, lambda: Remove(at_ms, node, who, room, ban_ms)),
        (2, lambda: Kick(at_ms, node, who)),
        (2, lambda: Disconnect(at_ms, node, who, ban_ms)),
        (4, lambda: Say(at_ms, node, room)),
        (4, lambda: Read(at_ms, node, who, room)),
    ]
    return chance.choices([draw for _, draw in draws], [weight for weight, _ in draws])[0]()


def _disasters(chance: random.Random, nodes: int) -> list[Step]:
    drawn: list[Step] = []
    kinds = list(DISASTERS)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        draw = DISASTERS[chance.choice(kinds)]
        action = draw(chance, nodes)
        latest_ms = BUSY_MS - lasts_ms(action)
        drawn.append(msgspec.structs.replace(action, at_ms=chance.randrange(4_000, latest_ms)))
    return drawn


def _disaster(chance: random.Random, nodes: int, before_ms: int) -> Step:
    """Return one disaster that begins before a time."""
    action = DISASTERS[chance.choice(list(DISASTERS))](chance, nodes)
    return msgspec.structs.replace(action, at_ms=chance.randrange(4_000, max(before_ms, 4_001)))


def _for(chance: random.Random) -> int:
    return chance.choice(DURATIONS_MS) + chance.randrange(100)


DISASTERS: Final[dict[str, Draw]] = {
    "cut": lambda c, n: Cut(0, c.randrange(n), _for(c), c.choice(WAYS)),
    "cut all": lambda c, n: CutAll(0, _for(c), c.choice(WAYS)),
    "cut pub/sub": lambda c, n: CutPubsub(0, c.randrange(n), _for(c), c.choice(WAYS)),
    "half-open": lambda c, n: HalfOpen(0, c.randrange(n), c.choice(("commands", "pubsub", "both"))),
    "lossy pub/sub": lambda c, n: LossyPubsub(0, c.randrange(n), _for(c), c.choice((0.02, 0.2, 0.7))),
    "slow": lambda c, n: Slow(0, c.randrange(n), _for(c), c.choice((20, 100, 300))),
    "lost answers": lambda c, n: LoseAnswers(0, c.randrange(n), c.choice((1, 1, 3))),
    "freeze a node": lambda c, n: FreezeNode(0, c.randrange(n), _for(c), c.choice((0, 0, 1_500, 4_000))),
    "freeze all": lambda c, n: FreezeAll(0, _for(c), store=c.random() < 0.4),
    "kill a node": lambda c, n: KillNode(0, c.randrange(n), _for(c)),
    "freeze the store": lambda c, n: FreezeStore(0, _for(c)),
    "restart the store": lambda c, n: RestartStore(0, _for(c), c.choice((None, None, 0, 2_000, 8_000))),
    "promote a replica": lambda c, n: Promote(0, c.choice((1, 5, 30, 200)), c.choice((20, 500, 3_000))),
    "flush all": lambda c, n: FlushAll(0),
    "script flush": lambda c, n: ScriptFlush(0),
    "refuse": lambda c, n: Refuse(0, c.choice(("READONLY", "OOM", "LOADING")), _for(c)),
    "step the clock": lambda c, n: StepClock(0, c.choice(STEPS_MS)),
}
"""Each kind equally often."""
