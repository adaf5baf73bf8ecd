"""What happened in a run, as the world knows it: not what the product says of itself.

Times are virtual ms. `None` for a time is: not yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from presence_server.client.events import RosterEvent
from presence_server.protocol.messages import Mode

NEVER: Final = 2**60
READ_MS: Final = 100
"""What has come while a client did not read, it reads within this."""


class Span(NamedTuple):
    """A time that something lasted."""

    begin_ms: int
    end_ms: int

    def meets(self, begin_ms: int, end_ms: int) -> bool:
        """Tell whether the span has a moment in common with another."""
        return self.begin_ms <= end_ms and begin_ms <= self.end_ms


@dataclass(eq=False)
class Request:
    """Something that a client asked its node."""

    life: "Life"
    what: str
    asked_ms: int
    answered_ms: int | None = None
    refused: str = ""
    """The error code of its answer."""


@dataclass(eq=False)
class Life:
    """One connection: when each end began and ended it, and how."""

    number: int
    who: str
    user: str
    node: int
    asked_ms: int
    cid: str = ""
    """The cid it has, or asked for."""
    claimed: str = ""
    """The cid whose token it brought."""
    resumed: bool = False
    opened_ms: int | None = None
    """When its node let it in."""
    welcomed_ms: int | None = None
    """When its client knew."""
    hung_up_ms: int | None = None
    """When its client ended it, or lost it."""
    ended_ms: int | None = None
    """When its node ended it, or noticed its end."""
    code: int | None = None
    """The close code of the end that came first; None: lost."""
    requests: dict[int, Request] = field(default_factory=dict)
    """What it asked and was not answered."""
    was_ready: bool = True
    """Whether its node took connections when it was asked."""
    dozes: list[Span] = field(default_factory=list)
    """When its client did not read."""

    def reads_by_ms(self, sent_ms: int, at_ms: int) -> int:
        """Return when it has read what was sent since then and has come by `at_ms`: later, if it did not read."""
        for doze in self.dozes:
            if doze.meets(sent_ms, at_ms):
                at_ms = max(at_ms, doze.end_ms + at_ms - sent_ms)
        return at_ms

    def written_ms(self, at_ms: int) -> int:
        """Return when its node wrote what its client read at `at_ms`, at the earliest."""
        return min(
            (doze.begin_ms for doze in self.dozes if doze.meets(at_ms - READ_MS, at_ms)), default=at_ms
        )

    @property
    def over_ms(self) -> int:
        """When the first of its ends ended it."""
        return min(self.hung_up_ms or NEVER, self.ended_ms or NEVER)

    def __str__(self) -> str:
        return f"{self.who}#{self.number}@{self.node}({self.cid[:6]})"


How = Literal["left", "removed", "closed", "lost", "refused"]


@dataclass(eq=False)
class Stay:
    """A connection's time in a room."""

    life: Life
    room: str
    joining: bool
    mode: Mode
    asked_ms: int
    entered_ms: int | None = None
    """When its client was told that it is in."""
    until_ms: int = NEVER
    """When that ended: a `leave` was sent, the connection ended at either end, `removed` came."""
    how: How | None = None
    told_all: bool = field(init=False)
    """Whether it has been in mode full all the time."""

    def __post_init__(self) -> None:
        self.told_all = self.mode == "full"

    def end(self, now_ms: int, how: How) -> None:
        """Note the end, if there was none before."""
        if self.how is None:
            self.until_ms, self.how = now_ms, how


class Heard(NamedTuple):
    """What a client's roster did when it was told something."""

    at_ms: int
    life: Life
    room: str
    events: list[RosterEvent]
    source: str
    """The type of the message."""
    stale: bool


@dataclass(eq=False)
class Publication:
    """A message to a room, by its number."""

    number: int
    life: Life | None
    """Who sent it; None: a backend, by `node`."""
    node: int
    room: str
    sent_ms: int
    user: str = ""
    """Whom it is to, in place of a room."""
    ok_ms: int | None = None
    got: list[tuple[int, Life]] = field(default_factory=list)


@dataclass(eq=False)
class StateChange:
    """An update, or a join that brought a state."""

    number: int
    life: Life
    room: str
    sent_ms: int
    ok_ms: int | None = None
    v: int = 0


@dataclass(eq=False)
class GivenCommand:
    """What a backend asked for: `remove`, `kick` or `disconnect`."""

    kind: str
    node: int
    cid: str
    user: str
    room: str
    asked_ms: int
    ban_ms: int | None = None
    answered_ms: int | None = None
    status: int = 0


class Answer(NamedTuple):
    """What a backend was told, by one call: of a "room" its numbers, of "members" and a "user" the cids."""

    node: int
    kind: str
    what: str
    """The room or user."""
    asked_ms: int
    answered_ms: int
    value: Any


@dataclass(eq=False)
class Fault:
    """Something that was broken, from when to when; `nodes` are those that it befell."""

    kind: str
    nodes: tuple[int, ...]
    begin_ms: int
    end_ms: int = NEVER
    detail: Any = None


class Chronicle:
    """Everything of one run."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        """The trace: what was done, in order."""
        self.lives: list[Life] = []
        self.requests: list[Request] = []
        self.stays: list[Stay] = []
        self.heard: list[Heard] = []
        self.publications: dict[int, Publication] = {}
        self.changes: dict[int, StateChange] = {}
        self.commands: list[GivenCommand] = []
        self.answers: list[Answer] = []
        self.faults: list[Fault] = []
        self.broken: list[tuple[str, str]] = []
        """Promises that were broken, by the name of the invariant, with what was seen."""
        self._last_number = 0

    def number(self) -> int:
        """Return a number that nothing else in the run has."""
        self._last_number += 1
        return self._last_number

    def note(self, now_ms: int, line: str) -> None:
        """Add a line to the trace."""
        self.lines.append(f"{now_ms:>7} {line}")

    def breaks(self, invariant: str, now_ms: int, what: str) -> None:
        """Note that a promise was broken."""
        self.broken.append((invariant, f"at {now_ms}: {what}"))
        self.note(now_ms, f"BROKEN {invariant}: {what}")

    def lives_of(self, cid: str) -> Iterator[Life]:
        """Yield the connections that had or asked for a cid."""
        return (life for life in self.lives if cid in {life.cid, life.claimed})
