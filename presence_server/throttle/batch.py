"""Decisions that travel to the store together, the answers to them, and the callbacks that get these.

Does no I/O, and is given the time.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from presence_server import faults
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import RuleRow

CALL_MAX: Final = 100
"""Rows in one flight; a longer script call would delay those of all other processes."""
BATCH_DECISIONS_MAX: Final = 12_500
"""Equal hits in one batch, which share a row."""

Verb: TypeAlias = Literal[
    "hit", "peek", "charge", "refund", "reset", "block",
    "take", "lease", "keep", "acquire", "renew", "release",
]  # fmt: skip
"""The verbs of the store's script, `lua/decisions.lua`."""
CHANGES: Final[frozenset[Verb]] = frozenset(("charge", "refund", "reset", "block"))
VERDICT: Final = 5
"""How many numbers are in the verdict of one rule: those of a `Verdict`."""
ALLOWED: Final = 0
"""The position in a verdict of the number that says whether the rule admits: 1 or 0."""


class GivenUp(Enum):
    """The reason why the store has not answered."""

    LATE_STORE = "store"
    """The store took too long."""
    LATE_SELF = "self"
    """This process has more decisions to ask for than it can send."""
    AWAY = ""
    """The store could not be asked, refused, or was lost."""


StoreVerdicts: TypeAlias = list[int]
"""An answer of the store: for each rule those of a verdict, one after the other. To make a `Verdict` of each would cost
more than to send it."""


class LateVerdicts(list[int]):
    """An answer that the store sent in time and this process read after the deadline. It counts all the same."""


StoreAnswer: TypeAlias = StoreVerdicts | GivenUp
Done: TypeAlias = Callable[[Any], None]
"""Gets the `StoreAnswer`. It may be a future's `set_result`."""
Deliveries: TypeAlias = list[tuple[Done, StoreAnswer]]


class DecisionRow(NamedTuple):
    """A decision that is not a hit of one rule with cost 1; such a hit is the rule's row alone."""

    verb: Verb
    cost: int | str | Callable[[], int]
    """A number, or what returns it when the decision is sent; for `block` µs, for slots a token."""
    rules: tuple[RuleRow, ...]


Row: TypeAlias = RuleRow | DecisionRow


def verdicts_of(answer: StoreVerdicts) -> list[Verdict]:
    """Return an answer as verdicts, one for each rule."""
    return [_verdict(*answer[i : i + VERDICT]) for i in range(0, len(answer), VERDICT)]


def _verdict(allowed: int, remaining: int, retry_us: int, reset_us: int, blocked: int) -> Verdict:
    # As `Verdict(…)`, whose own constructor is Python, too: in half the time.
    verdict: Verdict = tuple.__new__(Verdict, (allowed == 1, remaining, retry_us, reset_us, blocked == 1))
    return verdict


def deliver_answer(done: Done, answer: object) -> None:
    """Call `done` with an answer. A fault in it is reported, and the callbacks that follow are still called."""
    try:
        done(answer)
    except asyncio.InvalidStateError:
        pass  # the caller has gone
    except Exception:  # noqa: BLE001 - `report` logs it
        faults.report("limiter")


class Learned(NamedTuple):
    """News of a key in an answer: the key was refused `cost`, or (verdict None) it was changed."""

    place: str
    row: RuleRow
    cost: int = 0
    verdict: StoreVerdicts | None = None
    given_back: bool = False
    """Whether the change only gave something back."""


class DecisionBatch:
    """Decisions, each with its callbacks. Equal hits that follow each other share a row."""

    __slots__ = (
        "_last_row",
        "answered",
        "asked_s",
        "began_s",
        "decisions",
        "dones",
        "full",
        "only_row",
        "places",
        "rows",
    )

    def __init__(self, asked_s: float, began_s: float) -> None:
        self.asked_s = asked_s
        """The time at which the first decision was asked for, in looked time (`LookedTime`)."""
        self.began_s = began_s
        """The same by the clock."""
        self.places: list[str] = []
        self.rows: list[Row] = []
        self.dones: list[list[Done]] = []
        """The callbacks of each row."""
        self.only_row: RuleRow | None = None
        """The row, where all rows are one rule's and each has one callback: the usual case, which costs less."""
        self.decisions = 0
        self.full = False
        """Whether the next decision must go into another batch."""
        self.answered = False
        """Whether every callback has been called, or is about to be."""
        self._last_row: dict[str, int] = {}

    def add_decision(self, places: Sequence[str], row: DecisionRow, done: Done) -> None:
        """Add a decision that is not a single hit."""
        self.only_row = None
        self.rows.append(row)
        self.places += places
        self.dones.append([done])
        self.decisions += 1
        self.full = len(self.rows) >= CALL_MAX
        for place in places:
            self._last_row.pop(place, None)  # a later hit of this key comes after it

    def add_hit(self, place: str, row: RuleRow, done: Done) -> None:
        """Add a hit of one rule with cost 1."""
        self.decisions += 1
        rows = self.rows
        at = self._last_row.get(place)
        if at is not None and rows[at] is row:
            self.dones[at].append(done)
            self.only_row = None
            self.full = self.decisions >= BATCH_DECISIONS_MAX
            return
        number = len(rows)
        if row is not self.only_row:
            self.only_row = None if number else row
        self._last_row[place] = number
        rows.append(row)
        self.places.append(place)
        self.dones.append([done])
        if number + 1 >= CALL_MAX:
            self.full = True

    def answer_all(self, answers: Sequence[StoreVerdicts | str], *, late: bool) -> Deliveries:
        """Return each callback with its answer; a text in place of an answer says what is wrong with the key."""
        if self.only_row is not None and not late and str not in set(map(type, answers)):
            return [(dones[0], answer) for dones, answer in zip(self.dones, answers, strict=True)]  # type: ignore[misc]  # no str
        deliveries: Deliveries = []
        for dones, answer in zip(self.dones, answers, strict=True):
            if not isinstance(answer, list):
                deliveries += [(done, GivenUp.AWAY) for done in dones]
                continue
            shares = [answer] if len(dones) == 1 else _shared_out(len(dones), answer)
            deliveries += zip(dones, map(LateVerdicts, shares) if late else shares, strict=True)
        return deliveries

    def learned(self, answers: Sequence[StoreVerdicts | str]) -> Iterator[Learned]:
        """Yield the news of keys in the answers, in the order in which the store decided."""
        at = 0
        for row, answer in zip(self.rows, answers, strict=True):
            if type(row) is RuleRow:
                if type(answer) is list and (not answer[ALLOWED] or len(answer) > VERDICT):
                    yield Learned(self.places[at], row, 1, answer[-VERDICT:])
                at += 1
            elif isinstance(row, DecisionRow):
                yield from _learned_of(row, self.places[at : at + len(row.rules)], answer)
                at += len(row.rules)

    def give_up_all(self, why: GivenUp) -> Deliveries:
        """Return each callback with the reason why there is no answer."""
        return [(done, why) for dones in self.dones for done in dones]


def _learned_of(row: DecisionRow, places: Sequence[str], answer: StoreVerdicts | str) -> Iterator[Learned]:
    for number, (rule, place) in enumerate(zip(row.rules, places, strict=True)):
        if row.verb in CHANGES:
            yield Learned(place, rule, given_back=row.verb == "refund")
        elif row.verb in {"hit", "take"} and type(answer) is list:
            verdict = answer[VERDICT * number : VERDICT * (number + 1)]
            if not verdict[ALLOWED]:
                cost = row.cost if row.verb == "hit" and isinstance(row.cost, int) else 1
                yield Learned(place, rule, cost, verdict)


def _shared_out(hits: int, answer: StoreVerdicts) -> list[StoreVerdicts]:
    """Return the verdict of each of several equal hits.

    `answer` is how many were admitted, what remains and when the key is fresh (µs) after them; then the verdict of
    those that were refused, if any.
    """
    admitted, remaining, reset_us, *refusal = answer
    shares = [[1, remaining + admitted - 1 - n, 0, reset_us, 0] for n in range(admitted)]
    return shares + [refusal] * (hits - admitted)
