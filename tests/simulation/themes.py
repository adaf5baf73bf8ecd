"""What drawn plans meet too seldom by chance: several things of one kind at about one time, each with drawn numbers.

A theme is the shape of a failure, such as clients that reload while their node is cut off. Nodes, clients, times and
numbers are drawn; around it clients talk, change and come and go as in every plan, only less.
"""

import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tests.simulation.plan import (
    NODES,
    ROOMS,
    Close,
    Cut,
    CutAll,
    CutPubsub,
    Disconnect,
    Doze,
    Drop,
    FlushAll,
    FreezeAll,
    FreezeNode,
    FreezeStore,
    Join,
    Kick,
    KillNode,
    Lease,
    Leave,
    LoseAnswers,
    LossyPubsub,
    Message,
    Patience,
    Plan,
    Promote,
    Publish,
    Read,
    Remove,
    RestartStore,
    ScriptFlush,
    Slow,
    Start,
    Step,
    StepClock,
    Twins,
    Update,
    Watch,
    Way,
)

COMING_MS: Final = 2_500
"""Everybody has come by then."""
TALKS_FOR_MS: Final = 22_000
"""So long clients talk about a theme; as long as its disasters, and a return."""
NOOKS: Final = tuple(f"nook-{number}" for number in range(8))
"""Rooms that have nobody but who a theme sends there."""


class Setting(NamedTuple):
    """Where a theme takes place: who is there, on which nodes, and when it begins."""

    chance: random.Random
    at_ms: int
    clients: int
    nodes: int
    room: str

    def node(self) -> int:
        """Draw a node."""
        return self.chance.randrange(self.nodes)

    def on(self, node: int) -> list[int]:
        """Return the clients that come to a node first."""
        return list(range(node, self.clients, self.nodes))

    def some(self, clients: Iterable[int], least: int = 1) -> list[int]:
        """Draw some of the clients, in a drawn order."""
        among = list(clients)
        return self.chance.sample(among, self.chance.randint(min(least, len(among)), len(among)))

    def about(self, at_ms: int, spread_ms: int) -> int:
        """Draw a moment around another."""
        return max(at_ms + self.chance.randint(-spread_ms, spread_ms), COMING_MS)

    def way(self) -> Way:
        """Draw how a link is cut."""
        return self.chance.choice(("refused", "refused", "stalled"))


Theme = Callable[[Setting], list[Step]]


def draw(theme: str, seed: int, chance: random.Random) -> Plan:
    """Return a plan with a theme."""
    clients = chance.choice(CROWDS if theme == CROWDED else (8, 12, 16, 20))
    nodes = chance.choice((2, NODES))
    setting = Setting(chance, chance.randrange(3_500, 9_000), clients, nodes, chance.choice(ROOMS))
    # A crowd that talked for longer would be gone before it is quiet.
    talks_ms = TALKS_FOR_MS if theme != CROWDED else 2_000
    steps = [
        *_company(setting),
        *_chatter(setting, chance.choice((300, 600, 1_200)), talks_ms),
        *{**THEMES, **LATER_THEMES}[theme](setting),
    ]
    soft_bytes = chance.choice((5_000, 8_000))  # more than a room's roster
    patience = Patience(soft_bytes, 4 * soft_bytes, 4_000) if theme == SLOW else None
    return Plan(seed, tuple(sorted(steps, key=lambda step: step.at_ms)), clients, nodes, patience)


def _company(setting: Setting) -> list[Step]:
    """Return how clients come: all into one room, some into another, a few only watch or do nothing yet."""
    chance, steps = setting.chance, list[Step]()
    for who in range(setting.clients):
        at_ms = chance.randrange(COMING_MS)
        steps.append(Start(at_ms, who, who % setting.nodes))
        what = chance.random()
        if what < 0.85:
            steps.append(Join(at_ms + 1, who, setting.room))
        elif what < 0.93:
            steps.append(Watch(at_ms + 1, who, setting.room))
        if what < 0.2:
            steps.append(Join(at_ms + 2, who, chance.choice(ROOMS)))
    return steps


def _chatter(setting: Setting, pause_ms: int, for_ms: int) -> list[Step]:
    """Return what clients do that have nothing to do with the theme."""
    chance, steps = setting.chance, list[Step]()
    at_ms = setting.at_ms - 1_000
    while at_ms < setting.at_ms + for_ms:
        who, node = chance.randrange(setting.clients), setting.node()
        room = setting.room
        does: list[Step] = [
            *(Publish(at_ms, who, room), Update(at_ms, who, room), Join(at_ms, who, chance.choice(ROOMS))),
            *(Publish(at_ms, who, room), Update(at_ms, who, room), Read(at_ms, node, who, room)),
            *(Drop(at_ms, who, node, chance.choice((0, 300))), Message(at_ms, node, who)),
        ]
        steps.append(chance.choice(does))
        at_ms += 1 + int(chance.expovariate(1 / pause_ms))
    return steps


# --- the store loses what it was told ---


def _wiped(at: Setting) -> list[Step]:
    """FLUSHALL with connections kept, maybe again before everybody is entered anew."""
    chance, at_ms = at.chance, at.at_ms
    steps: list[Step] = []
    if chance.random() < 0.6:
        delay_ms = chance.choice((20, 100, 300))
        steps += [Slow(at_ms - 500, node, 4_000, delay_ms) for node in range(at.nodes)]
    for _ in range(chance.choice((1, 2, 2, 3))):
        steps.append(FlushAll(at_ms))
        at_ms += chance.choice((20, 60, 150, 400, 900, 2_500, 6_000))
    return steps


def _wiped_in_bursts(at: Setting) -> list[Step]:
    """FLUSHALL several times while members are entered again and pages reload: calls fall before and after one."""
    chance, at_ms = at.chance, at.at_ms
    delays_ms = (10, 40, 150)
    steps: list[Step] = [Slow(at_ms - 500, node, 6_000, chance.choice(delays_ms)) for node in range(at.nodes)]
    for _ in range(chance.choice((2, 3))):
        for who in at.some(range(at.clients), 3):
            when_ms, node = at_ms + chance.randrange(600), at.node()
            reload = Close(when_ms, who, node, chance.choice((60, 200)))
            steps.append(chance.choice((Drop(when_ms, who, node), reload)))
        for _ in range(chance.choice((2, 3, 4))):
            steps.append(FlushAll(at_ms))
            at_ms += chance.randrange(5, 300)
        at_ms += chance.choice((500, 2_500))
    return steps


def _restored(at: Setting) -> list[Step]:
    """Clients leave, close, are taken out; then the store is what it was before."""
    chance, steps = at.chance, list[Step]()
    older_ms = chance.choice((500, 1_500, 3_000, 8_000))
    for who in at.some(range(at.clients)):
        left_ms = at.at_ms - chance.randrange(max(older_ms, 1_000))
        does: list[Step] = [
            Leave(left_ms, who, at.room),
            Leave(left_ms, who, at.room),
            Close(left_ms, who, 0),
            Remove(left_ms, at.node(), who, at.room),
        ]
        steps.append(chance.choice(does))
    if chance.random() < 0.7:
        return [*steps, RestartStore(at.at_ms, chance.choice((50, 500, 2_000)), older_ms)]
    return [*steps, Promote(at.at_ms, chance.choice((5, 30, 200)), chance.choice((20, 500)))]


def _gone_in_the_outage(at: Setting) -> list[Step]:
    """Nobody reaches the store, which may lose everything, one node maybe for longer; meanwhile members go."""
    chance, for_ms, node = at.chance, at.chance.choice((900, 1_500, 2_500, 4_000)), at.node()
    steps: list[Step] = [CutAll(at.at_ms, for_ms)]
    if chance.random() < 0.8:
        steps = [RestartStore(at.at_ms, for_ms)]
    if chance.random() < 0.6:
        steps.append(Cut(at.at_ms, node, for_ms + chance.randrange(2_000, 4_000)))
    for who in at.some(range(at.clients)):
        gone_ms = at.about(at.at_ms + for_ms // 2, for_ms // 2)
        steps.append(chance.choice((Leave(gone_ms, who, at.room), Close(gone_ms, who, 0))))
    return steps


# --- a node comes back ---


def _rooms_left_behind(at: Setting) -> list[Step]:
    """The last watchers of rooms leave before the node is cut off: its views are forgotten as it comes back."""
    node, steps = at.node(), list[Step]()
    for who, nook in zip(at.some(at.on(node), 3), NOOKS, strict=False):
        steps.append(Join(at.at_ms - 900, who, nook))
        steps.append(Leave(at.at_ms + at.chance.randrange(3_000), who, nook))
    cut_ms = at.at_ms + at.chance.randrange(500, 4_000)
    steps.append(Slow(at.at_ms - 200, node, 12_000, at.chance.choice((100, 300, 300))))
    return [*steps, CutPubsub(cut_ms, node, at.chance.choice((500, 1_500, 1_800, 2_500)))]


def _updates_over_a_return(at: Setting) -> list[Step]:
    """Members go on changing while their node, slow, is cut off and comes back."""
    chance, node = at.chance, at.node()
    steps: list[Step] = [Slow(at.at_ms - 500, node, 10_000, chance.choice((100, 300)))]
    cut: type[Cut | CutPubsub] = chance.choice((Cut, CutPubsub))
    steps.append(cut(at.at_ms, node, chance.choice((300, 500, 1_500, 3_000))))
    pause_ms = chance.choice((40, 100, 200))
    for turn in range(8_000 // pause_ms):
        who = chance.choice(at.on(node) or [0])
        steps.append(Update(at.at_ms + turn * pause_ms, who, at.room))
    return steps


def _joins_under_way(at: Setting) -> list[Step]:
    """Many join as the answers of their node's pipelines are lost."""
    chance, node = at.chance, at.node()
    room = chance.choice([room for room in ROOMS if room != at.room])
    steps: list[Step] = [
        LoseAnswers(at.at_ms, node, chance.choice((1, 1, 2)), silently=chance.random() < 0.8)
    ]
    step_ms = chance.choice((1, 3, 10))
    for turn, who in enumerate(at.some(at.on(node), 3)):
        steps.append(Join(at.at_ms + step_ms * turn, who, room))
    return steps


def _short_cuts(at: Setting) -> list[Step]:
    """A node is away for a moment, again and again; on others members leave just then."""
    chance, at_ms, steps = at.chance, at.at_ms, list[Step]()
    leaving = at.some(range(at.clients), 4)
    for _ in range(chance.choice((1, 2, 3))):
        node, for_ms = at.node(), chance.choice((100, 200, 400, 900))
        steps.append(Cut(at_ms, node, for_ms))
        for _ in range(3):
            gone = [who for who in leaving if who % at.nodes != node]
            if gone:
                leaving.remove(gone[0])
                steps.append(Leave(at_ms + chance.randrange(for_ms), gone[0], at.room))
        at_ms += 9_000
    return steps


def _visitors_of_an_isolated_node(at: Setting) -> list[Step]:
    """A node is cut off for long; clients come to it, join, and go again."""
    chance, node = at.chance, at.node()
    for_ms = chance.choice((5_000, 9_000, 14_000))
    steps: list[Step] = [Cut(at.at_ms, node, for_ms)]
    pause_ms = chance.choice((100, 300, 600))
    for turn, who in enumerate(at.some(range(at.clients), 6)):
        at_ms = at.at_ms + 500 + turn * pause_ms
        steps += [Close(at_ms, who, node), Start(at_ms + 60, who, node), Join(at_ms + 110, who, at.room)]
        gone_ms = at_ms + chance.choice((260, 900))
        steps.append(chance.choice((Leave(gone_ms, who, at.room), Close(gone_ms, who, node))))
    return steps


def _reloads_at_the_end_of_grace(at: Setting) -> list[Step]:
    """Pages are reloaded on a node that is cut off, and are back as their grace ends."""
    chance, node, steps = at.chance, at.node(), list[Step]()
    steps.append(Cut(at.at_ms, node, chance.choice((900, 2_500, 5_000)), at.way()))
    for who in at.some(at.on(node), 2):
        gone_ms = at.about(at.at_ms + 600, 1_500)
        there = chance.choice((node, at.node()))
        if chance.random() < 0.5:
            steps.append(Close(gone_ms, who, there, chance.randrange(700, 1_300)))
        else:
            steps.append(Drop(gone_ms, who, there, chance.choice((0, 300)), chance.randrange(2_500, 3_300)))
    return steps


def _lost_publishes(at: Setting) -> list[Step]:
    """Much is said as the answers of a node's pipelines are lost."""
    chance, node = at.chance, at.node()
    steps: list[Step] = [
        LoseAnswers(at.at_ms, node, chance.choice((1, 1, 2)), silently=chance.random() < 0.8)
    ]
    pause_ms = chance.choice((5, 10, 20))
    for turn in range(40):
        who = chance.choice(at.on(node) or [0])
        steps.append(Publish(at.at_ms - 200 + turn * pause_ms, who, at.room))
    return steps


def _lossy_rooms(at: Setting) -> list[Step]:
    """A node misses some of what rooms announce, though it hears itself; much changes meanwhile."""
    chance, node = at.chance, at.node()
    for_ms = chance.choice((900, 2_500, 5_000, 9_000))
    steps: list[Step] = [
        LossyPubsub(at.at_ms, node, for_ms, chance.choice((0.02, 0.2, 0.7)), rooms_only=True)
    ]
    pause_ms = chance.choice((20, 100, 300))
    for turn in range(for_ms // pause_ms):
        at_ms, who = at.at_ms + turn * pause_ms, chance.randrange(at.clients)
        does = (Join(at_ms, who, at.room), Leave(at_ms, who, at.room), Update(at_ms, who, at.room))
        steps.append(chance.choice(does))
    return steps


def _slow_readers(at: Setting) -> list[Step]:
    """Some do not read for a while, in a room where much is said; something else may break."""
    chance, steps = at.chance, list[Step]()
    for who in at.some(range(at.clients), 2):
        for _ in range(chance.choice((1, 1, 2))):
            doze_ms = chance.choice((500, 2_000, 5_000, 8_000))
            steps.append(Doze(at.about(at.at_ms + 2_000, 3_000), who, doze_ms))
    pause_ms = chance.choice((20, 50, 100))
    for turn in range(8_000 // pause_ms):
        at_ms, who = at.at_ms + turn * pause_ms, chance.randrange(at.clients)
        does: list[Step] = [
            *(Publish(at_ms, who, at.room), Publish(at_ms, who, at.room), Update(at_ms, who, at.room)),
            *(Update(at_ms, who, at.room), Join(at_ms, who, at.room), Leave(at_ms, who, at.room)),
        ]
        steps.append(chance.choice(does))
    broken: list[Step] = [
        Cut(at.at_ms + 3_000, at.node(), chance.choice((900, 2_500)), at.way()),
        FreezeNode(at.at_ms + 3_000, at.node(), chance.choice((900, 4_000))),
        FlushAll(at.at_ms + 3_000),
        RestartStore(at.at_ms + 3_000, 500),
    ]
    return [*steps, chance.choice(broken)] if chance.random() < 0.5 else steps


def _scripts_forgotten(at: Setting) -> list[Step]:
    """The store forgets its scripts, again and again, while clients come, change and go at once."""
    chance, at_ms, steps = at.chance, at.at_ms, list[Step]()
    for _ in range(chance.choice((1, 3, 6))):
        steps.append(ScriptFlush(at_ms) if chance.random() < 0.7 else RestartStore(at_ms, 60, 500))
        for who in at.some(range(at.clients)):
            about_ms = at.about(at_ms, 100)
            does: list[Step] = [
                *(
                    Update(about_ms, who, at.room),
                    Leave(about_ms, who, at.room),
                    Join(about_ms, who, at.room),
                ),
                *(Drop(about_ms, who, at.node()), Publish(about_ms, who, at.room)),
            ]
            steps.append(chance.choice(does))
        at_ms += chance.choice((300, 1_500, 5_000))
    return steps


def _users_called(at: Setting) -> list[Step]:
    """Backends send users messages while something breaks for a moment."""
    chance = at.chance
    steps: list[Step] = [
        Message(at.about(at.at_ms, 1_000), at.node(), chance.randrange(at.clients)) for _ in range(60)
    ]
    for_ms = chance.choice((200, 900, 2_500))
    broken: list[Step] = [
        LoseAnswers(at.at_ms, at.node(), chance.choice((1, 1, 3)), silently=chance.random() < 0.6),
        Cut(at.at_ms, at.node(), for_ms, at.way()),
        CutPubsub(at.at_ms, at.node(), for_ms, at.way()),
        RestartStore(at.at_ms, for_ms),
        FlushAll(at.at_ms),
    ]
    return [*steps, chance.choice(broken)]


# --- connections that are resumed ---


def _watchers_resumed_elsewhere(at: Setting) -> list[Step]:
    """Connections without memberships are resumed on another node while theirs is cut off: nothing tells it."""
    chance, steps = at.chance, list[Step]()
    node = at.node()
    other = (node + 1) % at.nodes
    for_ms = chance.choice((1_500, 3_000, 5_000))
    both = chance.random() < 0.5
    steps.append(Cut(at.at_ms, node, for_ms))
    if both:
        steps.append(Cut(at.about(at.at_ms, 500), other, chance.choice((1_500, 3_000, 5_000))))
    for who in at.some(range(at.clients), 3):
        steps += [Close(at.at_ms - 2_400, who, node), Start(at.at_ms - 2_300, who, node)]
        if chance.random() < 0.6:
            steps.append(Watch(at.at_ms - 2_200, who, at.room))
        gap_ms = chance.choice((100, 900, 1_500, 2_500))
        resumed_ms = at.about(at.at_ms + (600 if both else 900 - gap_ms), 600)
        steps.append(Twins(resumed_ms, who, node, other, gap_ms))
    return steps


def _resumed_again_on_isolated_nodes(at: Setting) -> list[Step]:
    """Connections are resumed on one node, and again on another before the first has noticed: none has the store.

    All come back at once, and links are slow.
    """
    chance, for_ms = at.chance, at.chance.choice((3_500, 5_000))
    delay_ms = chance.choice((20, 60, 150))
    steps: list[Step] = [Slow(at.at_ms - 500, node, for_ms + 5_000, delay_ms) for node in range(at.nodes)]
    away: list[Step] = [FreezeStore(at.at_ms, for_ms), CutAll(at.at_ms, for_ms, at.way())]
    for who in at.some(range(at.clients), 4):
        node = at.node()
        reloaded_ms = at.at_ms + 1_700 + chance.randrange(500)
        steps.append(Close(reloaded_ms, who, node, 60))
        lost_ms = reloaded_ms + 400 + chance.randrange(for_ms - 2_600)
        steps.append(Drop(lost_ms, who, (node + 1) % at.nodes, 6_000))
    return [*steps, chance.choice(away)]


def _two_tokens(at: Setting) -> list[Step]:
    """Tabs are duplicated, several at a time, as nodes come and go."""
    chance, steps = at.chance, list[Step]()
    for who in at.some(range(at.clients), 3):
        gap_ms = chance.choice((0, 0, 5, 50, 400))
        steps.append(Twins(at.about(at.at_ms, 2_000), who, at.node(), at.node(), gap_ms))
    broken: list[Step] = [
        Cut(at.at_ms, at.node(), chance.choice((300, 1_500, 3_500)), at.way()),
        FreezeNode(at.at_ms, at.node(), chance.choice((1_500, 4_000, 8_000)), chance.choice((0, 1_000))),
        CutAll(at.at_ms, chance.choice((900, 3_500))),
        RestartStore(at.at_ms, 500),
    ]
    return [*steps, chance.choice(broken)]


def _revolving_door(at: Setting) -> list[Step]:
    """In a busy room clients resume, leave and join, one after the other, for long."""
    chance, steps, at_ms = at.chance, list[Step](), at.at_ms
    pause_ms = chance.choice((900, 1_400, 1_800))
    for turn in range(26_000 // pause_ms):
        who = turn % at.clients
        steps.append(Drop(at_ms, who, at.node()))
        steps.append(Leave(at_ms + chance.choice((800, 1_400)), who, at.room))
        at_ms += pause_ms
    return steps


# --- time ---


def _clock_over_lingering(at: Setting) -> list[Step]:
    """The store's clock steps while members linger and leases run."""
    chance, steps = at.chance, list[Step]()
    for who in at.some(range(at.clients), 3):
        away_ms = chance.choice((0, 800, 4_500, 9_000))
        steps.append(Drop(at.about(at.at_ms, 1_500), who, at.node(), chance.choice((0, 300)), away_ms))
    steps += [
        Lease(at.about(at.at_ms, 2_000), at.node(), number, at.room) for number in range(chance.randrange(4))
    ]
    at_ms = at.at_ms
    for _ in range(chance.choice((1, 1, 2))):
        steps.append(StepClock(at_ms, chance.choice((-7_200_000, -60_000, -5_000, 5_000, 20_000, 7_200_000))))
        at_ms += chance.choice((500, 3_000, 8_000))
    return steps


def _clock_over_watchers(at: Setting) -> list[Step]:
    """The store's clock jumps; on a node nobody is a member."""
    chance, node, steps = at.chance, at.node(), list[Step]()
    for who in range(at.clients):
        if who % at.nodes == node:
            steps += [Close(at.at_ms - 700, who, node), Start(at.at_ms - 600, who, node)]
            if chance.random() < 0.5:
                steps.append(Watch(at.at_ms - 500, who, at.room))
    return [*steps, StepClock(at.at_ms + 1_500, chance.choice((20_000, 7_200_000, 7_200_000, 86_400_000)))]


def _all_wake(at: Setting) -> list[Step]:
    """Every process stops, the store maybe too, and all wake at once, and find much to do."""
    chance, for_ms = at.chance, at.chance.choice((2_500, 5_000, 7_000, 9_000, 12_000))
    steps: list[Step] = [FreezeAll(at.at_ms, for_ms, store=chance.random() < 0.3)]
    if chance.random() < 0.3:
        steps = [FreezeStore(at.at_ms, for_ms)]
    for who in at.some(range(at.clients)):
        at_ms = at.at_ms + for_ms + chance.randrange(300)
        does: list[Step] = [
            Update(at_ms, who, at.room),
            Publish(at_ms, who, at.room),
            Leave(at_ms, who, at.room),
            Drop(at_ms, who, at.node()),
        ]
        steps.append(chance.choice(does))
    return steps


# --- nodes that die, commands ---


def _a_crowd_dies(at: Setting) -> list[Step]:
    """Very many members are on a node that is killed, and most do not come back."""
    node = at.node()
    gone = [Close(at.at_ms, who, 0) for who in at.on(node) if at.chance.random() < 0.95]
    return [*gone, KillNode(at.at_ms, node, at.chance.choice((500, 3_000)))]


def _all_die(at: Setting) -> list[Step]:
    """Node after node dies, so that nobody is there to see the last one's end; clients go for good, or come back."""
    chance, at_ms, steps = at.chance, at.at_ms, list[Step]()
    for node in chance.sample(range(at.nodes), at.nodes):
        steps.append(KillNode(at_ms, node, chance.choice((500, 3_000, 7_000))))
        at_ms += chance.choice((0, 100, 1_500))
    for who in at.some(range(at.clients)):
        steps.append(Close(at.at_ms + chance.randrange(1_000), who, 0))
    return steps


def _commands_in_failures(at: Setting) -> list[Step]:
    """Backends take out and disconnect whoever is on a node that is away."""
    chance, node, for_ms = at.chance, at.node(), at.chance.choice((900, 2_500, 5_000, 8_000))
    away: list[Step] = [
        Cut(at.at_ms, node, for_ms, at.way()),
        CutPubsub(at.at_ms, node, for_ms, at.way()),
        FreezeNode(at.at_ms, node, for_ms, chance.choice((0, 1_500))),
        KillNode(at.at_ms, node, for_ms),
    ]
    steps = [chance.choice(away)]
    for who in at.some(range(at.clients), 3):
        at_ms, there = at.about(at.at_ms + for_ms // 2, for_ms), at.node()
        ban_ms = chance.choice((None, None, 3_000, 10_000))
        does: list[Step] = [
            Remove(at_ms, there, who, at.room, ban_ms),
            Remove(at_ms, there, who, at.room, ban_ms),
            Kick(at_ms, there, who),
            Disconnect(at_ms, there, who, ban_ms),
        ]
        steps.append(chance.choice(does))
    return steps


SLOW: Final = "slow readers"
CROWDED: Final = "a crowd dies"
CROWDS: Final = (120, 150, 180)
THEMES: Final[dict[str, Theme]] = {
    "wiped": _wiped,
    "restored": _restored,
    "gone in the outage": _gone_in_the_outage,
    "rooms left behind": _rooms_left_behind,
    "updates over a return": _updates_over_a_return,
    "joins under way": _joins_under_way,
    "short cuts": _short_cuts,
    "visitors of an isolated node": _visitors_of_an_isolated_node,
    "reloads at the end of grace": _reloads_at_the_end_of_grace,
    "lost publishes": _lost_publishes,
    "lossy rooms": _lossy_rooms,
    SLOW: _slow_readers,
    "scripts forgotten": _scripts_forgotten,
    "users called": _users_called,
    "watchers resumed elsewhere": _watchers_resumed_elsewhere,
    "two tokens": _two_tokens,
    "revolving door": _revolving_door,
    "clock over lingering": _clock_over_lingering,
    "clock over watchers": _clock_over_watchers,
    "all wake": _all_wake,
    CROWDED: _a_crowd_dies,
    "all die": _all_die,
    "commands in failures": _commands_in_failures,
}
"""By name; a seed's is drawn. One more is for seeds from some number on: those before stay what they were."""
LATER_THEMES: Final[dict[str, Theme]] = {
    "resumed again on isolated nodes": _resumed_again_on_isolated_nodes,
    "wiped in bursts": _wiped_in_bursts,
}
"""Those for seeds of `drawing.LATER` beside the others."""
