"""The port between a limiter and a store that many processes share; `redis` and `cluster` are its adapters."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from presence_server.throttle.batch import Done, GivenUp, StoreVerdicts, Verb
from presence_server.throttle.rule import Rule, RuleRow

Forget: TypeAlias = Callable[[str | None, bool], None]
"""Gets a place whose count every process must forget, None: all, and whether something was only given back."""
NoteRefusal: TypeAlias = Callable[[str, RuleRow, int, StoreVerdicts], None]
"""Gets the place, the rule, the cost and the verdict of a refusal."""


class SharedStore(Protocol):
    """A store that many processes share. Nothing is asked of it twice: it may have been counted the first time.

    It is used in one event loop at a time; where that has ended it goes on in the next.
    """

    @property
    def place(self) -> Callable[[str, str], str]:
        """A function of `Rule.place` and a key that returns the place where the key is counted."""

    @property
    def broken(self) -> bool:
        """Whether the store is not asked at present: it has failed too often, or cannot be reached."""

    def ask(
        self, verb: Verb, rules: Sequence[Rule], places: Sequence[str], cost: int | str, done: Done
    ) -> GivenUp | None:
        """Ask for a decision about one key. Where the store is not asked at present, return why instead."""

    def ask_once(self, rule: Rule, place: str, done: Done) -> GivenUp | None:
        """Do as `ask` for the usual case: a hit of one rule, with cost 1."""

    def keep(self, rule: Rule, held: Sequence[tuple[str, Callable[[], int]]], done: Done) -> bool:
        """Tell the store how many slots this process holds at each place, without a deadline.

        How many is asked when it is sent: decisions that were asked for later may go before it. `done` is called once;
        where False is returned, not at all.
        """

    async def connect(self) -> None:
        """Return when it is connected."""

    async def aclose(self) -> None:
        """Give everything up and close the connections."""

    def follow_loop(self) -> None:
        """Begin in this event loop, or go on in it when another has ended.

        Raises `RuntimeError` where the other one still runs.
        """
