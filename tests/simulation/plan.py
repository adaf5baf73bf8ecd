"""A run as a list: what clients, backends and disasters do, and when. Drawn from a seed.

Every action stands on its own: it names clients and nodes by number, undoes itself (a fault has its end in it), and
does nothing where it does not fit. So any part of a plan is a plan, which is what makes a failing one short.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from presence_server.config.settings import PresenceSettings
from presence_server.protocol.messages import Mode

PRESENCE: Final = PresenceSettings(
    ttl_ms=6_000, heartbeat_ms=2_000, grace_clean_ms=1_000, grace_lost_ms=3_000, resume_ms=20_000
)
"""A fifth of the defaults, so that a minute holds several disasters."""
ROOMS: Final = ("lobby", "hall", "attic")
NODES: Final = 3
CLIENTS: Final = 20
USERS: Final = 14
"""Fewer than clients: some users have two."""
BUSY_MS: Final = 40_000
"""The part of a run in which clients act and things break."""
QUIET_MS: Final = PRESENCE.ttl_ms + PRESENCE.grace_lost_ms + 2 * PRESENCE.heartbeat_ms
"""After this without faults everything must be exact."""

Guess = Literal["none", "right", "wrong"]
Refusal = Literal["READONLY", "OOM", "LOADING"]
Way = Literal["refused", "stalled"]


class Action(msgspec.Struct, frozen=True, tag=True, tag_field="do"):
    """Something that happens `at_ms` after the beginning."""

    at_ms: int


# --- clients ---


class Start(Action, frozen=True):
    """A browser opens the page, unless it has it open."""

    who: int
    node: int


class Join(Action, frozen=True):
    who: int
    room: str
    mode: Mode = "full"


class Watch(Action, frozen=True):
    who: int
    room: str
    mode: Mode = "full"


class Leave(Action, frozen=True):
    who: int
    room: str


class Update(Action, frozen=True):
    who: int
    room: str
    guess: Guess = "none"
    """Whether it says which version it changes, and whether that is right."""


class Publish(Action, frozen=True):
    who: int
    room: str


class Signal(Action, frozen=True):
    who: int
    room: str


class Page(Action, frozen=True):
    """Asks for the roster by pages of two."""

    who: int
    room: str


class Drop(Action, frozen=True):
    """The connection is lost; the client is back at once, jittered, on `node`; the server notices later."""

    who: int
    node: int
    unnoticed_ms: int = 0
    away_ms: int = 0
    """How long the client has no network at all."""


class Close(Action, frozen=True):
    """The page is closed, or reloaded where `back_ms` says when."""

    who: int
    node: int
    back_ms: int | None = None


class Twins(Action, frozen=True):
    """Two connections resume with one token: a tab was duplicated while its connection was being lost."""

    who: int
    node: int
    other: int
    gap_ms: int = 0


# --- backends ---


class Remove(Action, frozen=True):
    """A backend takes a member out of a room, with a ban of its user there where `ban_ms` is given."""

    node: int
    who: int
    room: str
    ban_ms: int | None = None


class Kick(Action, frozen=True):
    """A backend closes a connection."""

    node: int
    who: int


class Disconnect(Action, frozen=True):
    """A backend disconnects a user, with a ban where `ban_ms` is given."""

    node: int
    who: int
    ban_ms: int | None = None


class Say(Action, frozen=True):
    """A backend says something to a room."""

    node: int
    room: str


class Lease(Action, frozen=True):
    """A backend enters something without a socket, or renews it; its lease ends by itself."""

    node: int
    who: int
    room: str


class Message(Action, frozen=True):
    """A backend says something to a user."""

    node: int
    who: int


class Read(Action, frozen=True):
    """A backend reads a room's numbers and members, and where a user is."""

    node: int
    who: int
    room: str


# --- disasters ---


class Cut(Action, frozen=True):
    """A node does not reach the store: `refused`, or `stalled`, so that all arrives when it is over."""

    node: int
    for_ms: int
    how: Way = "refused"


class CutAll(Action, frozen=True):
    """No node reaches the store."""

    for_ms: int
    how: Way = "refused"


class CutPubsub(Action, frozen=True):
    """A node writes but hears nothing."""

    node: int
    for_ms: int
    how: Way = "refused"


class HalfOpen(Action, frozen=True):
    """A node's connections to the store go dead without a word; new ones work."""

    node: int
    side: Literal["commands", "pubsub", "both"] = "both"


class LossyPubsub(Action, frozen=True):
    """A node misses some of what it should hear."""

    node: int
    for_ms: int
    lost: float


class Slow(Action, frozen=True):
    """What a node sends and gets takes longer."""

    node: int
    for_ms: int
    delay_ms: int


class LoseAnswers(Action, frozen=True):
    """Calls are carried out, but a node does not get the answers of its next pipelines."""

    node: int
    number: int
    silently: bool = False
    """Whether the node is not told, and hears meanwhile what they have published."""


class FreezeNode(Action, frozen=True):
    """A node's process stops; after `patience_ms` (0: never) its clients go elsewhere."""

    node: int
    for_ms: int
    patience_ms: int = 0


class FreezeAll(Action, frozen=True):
    """All nodes stop, with the store or without."""

    for_ms: int
    store: bool = False


class KillNode(Action, frozen=True):
    """A node's process dies, and is started again."""

    node: int
    for_ms: int


class FreezeStore(Action, frozen=True):
    for_ms: int


class RestartStore(Action, frozen=True):
    """The store dies, and is there again with nothing, or with what it was `older_ms` before."""

    for_ms: int
    older_ms: int | None = None


class Promote(Action, frozen=True):
    """A replica takes the store's place that has not got the last calls."""

    lost: int
    for_ms: int


class FlushAll(Action, frozen=True):
    """FLUSHALL: connections stay, data goes."""


class ScriptFlush(Action, frozen=True):
    """SCRIPT FLUSH: the store forgets scripts."""


class Refuse(Action, frozen=True):
    """The store refuses what writes."""

    why: Refusal
    for_ms: int


class StepClock(Action, frozen=True):
    """The store's clock jumps."""

    by_ms: int


Step = (
    Start | Join | Watch | Leave | Update | Publish | Signal | Page | Drop | Close | Twins
    | Remove | Kick | Disconnect | Say | Read | Lease | Message
    | Cut | CutAll | CutPubsub | HalfOpen | LossyPubsub | Slow | LoseAnswers | FreezeNode | FreezeAll | KillNode
    | FreezeStore | RestartStore | Promote | FlushAll | ScriptFlush | Refuse | StepClock
)  # fmt: skip
ByClient = Start | Join | Watch | Leave | Update | Publish | Signal | Page | Drop | Close | Twins
ByBackend = Remove | Kick | Disconnect | Say | Read | Lease | Message
Disaster = (
    Cut | CutAll | CutPubsub | HalfOpen | LossyPubsub | Slow | LoseAnswers | FreezeNode | FreezeAll | KillNode
    | FreezeStore | RestartStore | Promote | FlushAll | ScriptFlush | Refuse | StepClock
)  # fmt: skip


class Plan(msgspec.Struct, frozen=True):
    """A run: from its seed everything else is drawn that chance decides, such as delays and jitter."""

    seed: int
    steps: tuple[Step, ...]
    clients: int = CLIENTS
    nodes: int = NODES

    def only(self, indexes: Sequence[int]) -> "Plan":
        """Return the plan without all but some of its actions."""
        return msgspec.structs.replace(self, steps=tuple(self.steps[i] for i in sorted(indexes)))

    @property
    def disasters(self) -> list[Step]:
        """Return what breaks."""
        return [action for action in self.steps if isinstance(action, Disaster)]

    @property
    def ends_ms(self) -> int:
        """When everything is over that was done: the quiet begins."""
        return max((a.at_ms + _lasts_ms(a) for a in self.steps), default=0)


def describe(action: Action) -> str:
    """Return an action as one line."""
    fields = msgspec.structs.asdict(action)
    at_ms = fields.pop("at_ms")
    if fields.get("silently") is False:  # runs are drawn from this line: those of before stay what they were
        del fields["silently"]
    given = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{at_ms:>6} {type(action).__name__} {given}".rstrip()


def _lasts_ms(action: Action) -> int:
    back_ms = getattr(action, "back_ms", None) or 0
    return getattr(action, "for_ms", 0) + getattr(action, "away_ms", 0) + back_ms


# --- drawing one ---

RICH_FROM: Final = 1_000
"""Seeds below have fewer ingredients: what failed of them is written down, and stays what it was."""
LEASED: Final = 3
"""How many cids backends enter."""
LEASE_MS: Final = 3_000
Draw = Callable[[random.Random, int], Step]
DURATIONS_MS: Final = (100, 200, 500, 900, 1_500, 2_500, 3_500, 5_000, 7_000, 9_000, 12_000)
UNNOTICED_MS: Final = (0, 0, 300, 1_500, 4_000)
AWAY_MS: Final = (0, 0, 800, 4_500)
WAYS: Final[tuple[Way, ...]] = ("refused", "refused", "stalled")
STEPS_MS: Final = (-7_200_000, -60_000, -5_000, -2_500, -900, 900, 2_500, 5_000, 20_000, 7_200_000)


def draw_plan(seed: int, *, clients: int = CLIENTS, nodes: int = NODES) -> Plan:
    """Return the plan of a seed, always the same."""
    chance = random.Random(seed)  # noqa: S311 - a run must be the same every time
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
        drawn.append(Lease(at_ms, node, chance.randrange(LEASED), chance.choice(ROOMS)))
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
        latest_ms = BUSY_MS - _lasts_ms(action)
        drawn.append(msgspec.structs.replace(action, at_ms=chance.randrange(4_000, latest_ms)))
    return drawn


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


def decode_plan(text: bytes) -> Plan:
    """Read a plan that was written down."""
    return msgspec.json.decode(text, type=Plan)


def encode_plan(plan: Plan) -> bytes:
    """Write a plan down."""
    return msgspec.json.format(msgspec.json.encode(plan))
