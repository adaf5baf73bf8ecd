"""A run as a list: what clients, backends and disasters do, and when.

Every action stands on its own: it names clients and nodes by number, undoes itself (a fault has its end in it), and
does nothing where it does not fit. So any part of a plan is a plan, which is what makes a failing one short.
`drawing.py` draws them.
"""

from collections.abc import Sequence
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

LEASED_MEMBERS: Final = 3
"""How many cids backends enter."""
LEASE_MS: Final = 3_000
"""For how long backends enter something."""

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


class Doze(Action, frozen=True):
    """A page does not read what it is sent, for a while or until its node ends the connection."""

    who: int
    for_ms: int


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
    rooms_only: bool = False
    """Whether it hears itself all the same: only what rooms announce is lost."""


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
    Start | Join | Watch | Leave | Update | Publish | Signal | Page | Drop | Close | Twins | Doze
    | Remove | Kick | Disconnect | Say | Read | Lease | Message
    | Cut | CutAll | CutPubsub | HalfOpen | LossyPubsub | Slow | LoseAnswers | FreezeNode | FreezeAll | KillNode
    | FreezeStore | RestartStore | Promote | FlushAll | ScriptFlush | Refuse | StepClock
)  # fmt: skip
ByClient = Start | Join | Watch | Leave | Update | Publish | Signal | Page | Drop | Close | Twins | Doze
ByBackend = Remove | Kick | Disconnect | Say | Read | Lease | Message
Disaster = (
    Cut | CutAll | CutPubsub | HalfOpen | LossyPubsub | Slow | LoseAnswers | FreezeNode | FreezeAll | KillNode
    | FreezeStore | RestartStore | Promote | FlushAll | ScriptFlush | Refuse | StepClock
)  # fmt: skip


class Patience(msgspec.Struct, frozen=True):
    """How much nodes let wait for a client that does not read, and for how long."""

    soft_bytes: int
    hard_bytes: int
    hard_ms: int


class Plan(msgspec.Struct, frozen=True):
    """A run: from its seed everything else is drawn that chance decides, such as delays and jitter."""

    seed: int
    steps: tuple[Step, ...]
    clients: int = CLIENTS
    nodes: int = NODES
    patience: Patience | None = None
    """None: as the defaults are, which nobody's outbox reaches."""

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
        return max((a.at_ms + lasts_ms(a) for a in self.steps), default=0)


def describe(action: Action) -> str:
    """Return an action as one line."""
    fields = msgspec.structs.asdict(action)
    at_ms = fields.pop("at_ms")
    # The chance of a step is seeded by this line: those of older plans must not change.
    for name in ("silently", "rooms_only"):
        if fields.get(name) is False:
            del fields[name]
    given = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{at_ms:>6} {type(action).__name__} {given}".rstrip()


def lasts_ms(action: Action) -> int:
    """Return how long an action goes on after it has begun."""
    back_ms = getattr(action, "back_ms", None) or 0
    return getattr(action, "for_ms", 0) + getattr(action, "away_ms", 0) + back_ms


def decode_plan(text: bytes) -> Plan:
    """Read a plan that was written down."""
    return msgspec.json.decode(text, type=Plan)


def encode_plan(plan: Plan) -> bytes:
    """Write a plan down."""
    return msgspec.json.format(msgspec.json.encode(plan))
