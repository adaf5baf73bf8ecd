"""Connectivity with one part of the shared store: one table of states, events and effects. Pure: time is an argument.

    CONNECTED   the store is in reach, and every member of this node is in it
    ISOLATED    it is not: this node serves its own clients from its own memory and judges nobody else's
    REJOINING   it is again: members are entered anew, rooms are compared, and nobody is judged before all had time

A standalone server is one part; of a Cluster each slot is one (`parts.py`). A room is in one part, and no part
depends on another.

Nothing else keeps a flag about connectivity: whether rooms are stale, whether calls ask for a hold, and how long
absent members are provisional is read here.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec


class State(Enum):
    """A node's contact with one part of the store."""

    CONNECTED = "connected"
    ISOLATED = "isolated"
    REJOINING = "rejoining"


class Lost(msgspec.Struct, frozen=True):
    """A call failed in a way that says that the store is away, or this node cannot hear the others."""


class Restored(msgspec.Struct, frozen=True):
    """The node writes, and hears itself, again.

    `without_ms` is how long it did not. `same_server` says that the server is the process that it was before, with the
    replication history that it had: what it says of a room then includes everything that it has ever answered.
    """

    without_ms: int
    same_server: bool


class OwnMemberLost(msgspec.Struct, frozen=True):
    """The store did not know a member of this node that it should; `asked_ms` is when that was found out about."""

    asked_ms: int


class NodeForgotten(msgspec.Struct, frozen=True):
    """The store did not know this node, which it should: it was wiped, or took the node for dead."""


class HistoryBroken(msgspec.Struct, frozen=True):
    """A room that had members is of another generation or further back than it was: the store lost what it had said."""


class Suspended(msgspec.Struct, frozen=True):
    """The process was frozen for longer than others wait for its heartbeats."""


class ClockStepped(msgspec.Struct, frozen=True):
    """The store's clock was put forward, so that everybody seems to have expired."""


class OthersSilent(msgspec.Struct, frozen=True):
    """Every other node was silent, when this one began, for longer than nodes wait for heartbeats."""


class Rejoined(msgspec.Struct, frozen=True):
    """Everything that the rejoin asked for is answered."""


Event: TypeAlias = (
    Lost
    | Restored
    | OwnMemberLost
    | NodeForgotten
    | HistoryBroken
    | Suspended
    | ClockStepped
    | OthersSilent
    | Rejoined
)


class Effect(Enum):
    """An action that follows from an event; the actions of a row are done in its order."""

    ISOLATE = "serve from memory what this node knows of its rooms"
    RENEW_CONTACT = "give the connections up, and prove contact anew"
    REPEAT_CLAIMS = (
        "claim again what was resumed while isolated, and find connections that others have resumed"
    )
    READ_ROOMS = "find out what has changed in each room meanwhile"
    ENTER_MEMBERS = "enter this node's members, and announce when all are there again"
    REPLAY_DEPARTURES = "tell the store who left while isolated"
    NOTE_ANEW = "have the registry and the index of rooms note everything of this node anew"
    FORGET_ISOLATION = "keep nothing of what was done in memory"
    RESOLVE_PROVISIONAL = "let absent members go whose node did not bring them back in time"
    SHOW_STALENESS = "tell watchers whether other nodes' members may be out of date"
    DELIVER_UNSENT = (
        "deliver here what was published and has not come back: its PUBLISH may never be answered"
    )
    FOLLOW_POLICY = "find out whether the limiter's policy has been changed"


class Row(NamedTuple):
    """The next state and the effects of an event in a state; `hold`, `provisional`: see `Connectivity`."""

    state: State
    effects: tuple[Effect, ...] = ()
    hold: bool = False
    provisional: bool = False


CONNECTED, ISOLATED, REJOINING = State.CONNECTED, State.ISOLATED, State.REJOINING
_ISOLATE = (Effect.ISOLATE, Effect.SHOW_STALENESS, Effect.DELIVER_UNSENT)
_SUSPEND = (Effect.RENEW_CONTACT, *_ISOLATE)
_RETURN = (
    Effect.SHOW_STALENESS,
    Effect.REPEAT_CLAIMS,
    Effect.READ_ROOMS,
    Effect.REPLAY_DEPARTURES,
    Effect.ENTER_MEMBERS,
    Effect.NOTE_ANEW,
    Effect.FOLLOW_POLICY,
)
_REPAIR = (Effect.SHOW_STALENESS, Effect.REPEAT_CLAIMS, Effect.ENTER_MEMBERS, Effect.NOTE_ANEW)

TABLE: Final[Mapping[tuple[State, type[Event]], Row]] = {
    # Contact ends, from whatever state. A process that was frozen cannot know what it missed: contact is proven anew.
    (CONNECTED, Lost): Row(ISOLATED, _ISOLATE),
    (REJOINING, Lost): Row(ISOLATED, _ISOLATE),
    (CONNECTED, Suspended): Row(ISOLATED, _SUSPEND),
    (REJOINING, Suspended): Row(ISOLATED, _SUSPEND),
    (ISOLATED, Suspended): Row(ISOLATED, (Effect.RENEW_CONTACT,)),
    # Contact returns. A wiped store, a failover that lost writes and a plain outage are this one row.
    (ISOLATED, Restored): Row(REJOINING, _RETURN, hold=True, provisional=True),
    # The store has lost something while its connections lived: repaired like a return, without the isolation.
    (CONNECTED, OwnMemberLost): Row(REJOINING, _REPAIR),
    (REJOINING, OwnMemberLost): Row(REJOINING),  # and once more when this rejoin is over
    (CONNECTED, NodeForgotten): Row(REJOINING, _REPAIR),
    (REJOINING, NodeForgotten): Row(REJOINING, (Effect.NOTE_ANEW,)),  # and the same
    (CONNECTED, HistoryBroken): Row(REJOINING, _REPAIR, provisional=True),
    (REJOINING, HistoryBroken): Row(REJOINING, provisional=True),  # and the same
    # Every expiry is by the clock that jumped: nobody is judged before all have had time to send a heartbeat.
    (CONNECTED, ClockStepped): Row(CONNECTED, (Effect.NOTE_ANEW,), hold=True),
    (REJOINING, ClockStepped): Row(REJOINING, (Effect.NOTE_ANEW,), hold=True),
    # Others may be cut off: they have the time that they would have had from a node that returns.
    (CONNECTED, OthersSilent): Row(CONNECTED, hold=True),
    (REJOINING, OthersSilent): Row(REJOINING, hold=True),
    (ISOLATED, OthersSilent): Row(ISOLATED),  # and the return asks for a hold
    (REJOINING, Rejoined): Row(CONNECTED, (Effect.SHOW_STALENESS, Effect.FORGET_ISOLATION)),
    # Late news of a state that has ended.
    (ISOLATED, Lost): Row(ISOLATED),
    (ISOLATED, OwnMemberLost): Row(ISOLATED),
    (ISOLATED, NodeForgotten): Row(ISOLATED),
    (ISOLATED, HistoryBroken): Row(ISOLATED),
    (ISOLATED, ClockStepped): Row(ISOLATED),
    (ISOLATED, Rejoined): Row(ISOLATED),
    (CONNECTED, Restored): Row(CONNECTED),
    (REJOINING, Restored): Row(REJOINING),
    (CONNECTED, Rejoined): Row(CONNECTED),
}


class Connectivity:
    """One part's state, and two deadlines.

    *Hold*: until then the store is asked, with every call, to evict nobody. After a silence of `patience_ms`, or on
    another server, this node and maybe others must have spoken before anybody is judged; `hold_ms` gives them time.

    *Provisional*: until then members that the store lacks, and that nobody saw leave, stay; `provisional_ms` is the
    time after which a node that has not brought its members back is gone.
    """

    __slots__ = (
        "_began_ms",
        "_had_contact",
        "_hold_ms",
        "_hold_until_ms",
        "_others_silent",
        "_patience_ms",
        "_provisional_ms",
        "_provisional_until_ms",
        "_repeats_after_rejoin",
        "state",
        "trusted",
    )

    def __init__(self, *, patience_ms: int, hold_ms: int, provisional_ms: int) -> None:
        self.state = ISOLATED
        self.trusted = False
        """Whether the store still has everything that it had answered before contact last returned."""
        self._patience_ms = patience_ms
        self._hold_ms = hold_ms
        self._provisional_ms = provisional_ms
        self._hold_until_ms = 0
        self._provisional_until_ms: int | None = None
        self._began_ms = 0
        self._repeats_after_rejoin = False
        self._had_contact = False
        """Whether there has been contact once."""
        self._others_silent = False
        """Whether no other node had been heard of for long when this one began, and there has been no return since."""

    def copy(self) -> "Connectivity":
        """Return another one in the same state, which changes independently from now on."""
        other = Connectivity(
            patience_ms=self._patience_ms, hold_ms=self._hold_ms, provisional_ms=self._provisional_ms
        )
        for name in Connectivity.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    @property
    def is_resolved(self) -> bool:
        """Whether there is contact, no rejoin under way, and no member provisional."""
        return self.state is CONNECTED and self._provisional_until_ms is None

    @property
    def stale(self) -> bool:
        """Whether other nodes' members may be out of date."""
        return self.state is not CONNECTED

    def hold_rest_ms(self, now_ms: int) -> int:
        """Return for how long a call of now asks its room to evict nobody; 0: it does not ask.

        An isolated node cannot know what others have said meanwhile: nobody is judged by a call of its.
        """
        return self._hold_ms if self.state is ISOLATED else max(0, self._hold_until_ms - now_ms)

    def on(self, event: Event, now_ms: int) -> tuple[Effect, ...]:
        """Apply an event; return its effects, in order."""
        if isinstance(event, Rejoined) and (self._repeats_after_rejoin or self._hold_until_ms > now_ms):
            return self._repeat_rejoin(now_ms)
        row = TABLE[self.state, type(event)]
        if self.state is REJOINING and self._asks_for_another(event):
            self._repeats_after_rejoin = True
        if row.state is REJOINING and self.state is not REJOINING:
            self._began_ms = now_ms
            self._repeats_after_rejoin = False
        if row.hold and (not isinstance(event, Restored) or self._asks_for_hold(event)):
            self._hold_until_ms = now_ms + self._hold_ms
        if isinstance(event, Restored) and self.state is ISOLATED:
            self.trusted, self._had_contact, self._others_silent = event.same_server, True, False
        elif isinstance(event, OthersSilent):
            self._others_silent = self.state is ISOLATED
        elif isinstance(event, OwnMemberLost | NodeForgotten | HistoryBroken):
            self.trusted = False
        elif row.state is CONNECTED:
            self.trusted = True
        if row.provisional:
            self._provisional_until_ms = now_ms + self._provisional_ms
        self.state = row.state
        return row.effects

    def _asks_for_another(self, event: Event) -> bool:
        """Tell whether a loss during a rejoin may have come after its members were entered: it is repeated then."""
        if isinstance(event, OwnMemberLost):
            return event.asked_ms > self._began_ms
        return isinstance(event, NodeForgotten | HistoryBroken)

    def _asks_for_hold(self, restored: Restored) -> bool:
        """Tell whether nobody is to be judged after a return.

        Another server than before may have lost what kept members from expiring. At the first contact there was none
        before: a node that begins has nothing to say of others, unless all of them have been silent.
        """
        if self._others_silent:
            return True
        return restored.without_ms > self._patience_ms or (self._had_contact and not restored.same_server)

    def pass_time(self, now_ms: int) -> tuple[Effect, ...]:
        """Return what is to be done because time has passed."""
        if (
            self.state is ISOLATED
            or self._provisional_until_ms is None
            or now_ms < self._provisional_until_ms
        ):
            return ()
        self._provisional_until_ms = None
        return (Effect.RESOLVE_PROVISIONAL,)

    def _repeat_rejoin(self, now_ms: int) -> tuple[Effect, ...]:
        """Stay in the rejoin: the hold is not over, or members were lost since it began."""
        if self.state is not REJOINING or not self._repeats_after_rejoin:
            return ()
        self._repeats_after_rejoin = False
        self._began_ms = now_ms
        return (Effect.REPEAT_CLAIMS, Effect.ENTER_MEMBERS)
