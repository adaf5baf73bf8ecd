"""The limiter: rules by name, a store that counts, and what to do when that is out of reach."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from presence_server.faults import contain
from presence_server.rates import OnError
from presence_server.throttle.batch import (
    GivenUp,
    StoreAnswer,
    StoreVerdicts,
    Verb,
    deliver_answer,
    verdicts_of,
)
from presence_server.throttle.decision import Decision, Late, Source, Verdict, decision_of
from presence_server.throttle.deny import DenyCache
from presence_server.throttle.errors import StoreUnavailableError
from presence_server.throttle.fallback import AskedDecision, Fallback, OnErrorHook
from presence_server.throttle.lists import AccessLists, ListEntry
from presence_server.throttle.memory import KEYS_MAX, ThrottleMemoryStore, now_us
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule, RuleRow
from presence_server.throttle.rule_set import Named, RuleSet, checked_cost
from presence_server.throttle.share import Shares
from presence_server.throttle.token_batches import TokenBatches

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from presence_server.throttle.port import SharedStore
    from presence_server.throttle.slots import Slot

DEADLINE_MS: Final = 50
SHORTEST_WAIT_S: Final = 0.001
"""A refusal without a time would be asked about without end."""
BLOCK_MS_MAX: Final = 100 * 366 * 86_400_000
"""A hundred years."""


class Limiter:
    """Says whether something may happen, counted over every process that shares the store.

    - `redis`: the URL of a Redis or Valkey, or a client of `redis.asyncio`, whose server is used over
      connections of the limiter's own; "": this process counts by itself.
    - `prefix`: of every key in the store.
    - `on_error`: what becomes of a decision that the store has not made within `deadline_ms`: `open` admits,
      `closed` refuses, `local` lets this process alone decide, `share` lets it admit its part of what was left; a
      function of the rule's name, the key and the cost returns whether to admit. Time in which this process itself
      was busy does not count.
    - `nodes`: for `share`, how many processes share the store, or a function that returns it.
    - `keys_max`: how many keys this process counts by itself.
    - `on_decision` is told every decision, for metrics.

    To be used in one event loop at a time, else `RuntimeError`; where that has ended it goes on in the next. Close it
    with `aclose`, or as an asynchronous context manager. It connects with the first decision, in the background, or
    with `connect`.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        redis: "str | Redis" = "",
        prefix: str = "ps",
        on_error: OnError | OnErrorHook = "open",
        deadline_ms: int = DEADLINE_MS,
        keys_max: int = KEYS_MAX,
        nodes: int | Callable[[], int] = 1,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        self.on_decision = on_decision
        self.lists = AccessLists()
        """Keys and networks that are admitted or refused without being counted."""
        self._memory = ThrottleMemoryStore(keys_max)
        self._denied = DenyCache(keys_max)
        self._token_batches = TokenBatches(keys_max, deliver_answer)
        self._shares = Shares(nodes, keys_max)
        self._fallback = Fallback(on_error, self._memory, self._shares)
        self.store: SharedStore | None = None
        """The shared store, where there is one."""
        if redis:
            # It imports redis-py, which a limiter without a store does not need.
            from presence_server.throttle.shared_store import shared_store  # noqa: PLC0415 - see above

            self.store = shared_store(redis, prefix, deadline_ms, self._forget, self._note_refusal)
        self._rule_set = RuleSet(rules)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self, timeout_s: float = 5.0) -> bool:
        """Wait until the shared store is connected; return whether it is. Without one it always is."""
        if self.store is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.store.connect()
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """Close every connection; decisions that are under way are made as `on_error` says."""
        if self.store is not None:
            await self.store.aclose()

    @property
    def on_error(self) -> OnError | OnErrorHook:
        """The rule for decisions that the store has not answered in time; see the class."""
        return self._fallback.on_error

    def change_on_error(self, on_error: OnError | OnErrorHook) -> None:
        """Set `on_error`, from now on."""
        self._fallback.on_error = on_error

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by name."""
        return self._rule_set.by_name

    def change_rules(self, rules: Iterable[Rule]) -> None:
        """Replace the rules, while running. What has been counted stays; refusals are asked for anew.

        Raises `ValueError` where two have one name; then nothing has changed.
        """
        self._rule_set = RuleSet(rules)
        self._denied.forget_refusals()
        self._token_batches.forget_place(None)

    @property
    def broken(self) -> bool:
        """Whether the store is not asked at present: it has failed too often, or cannot be reached."""
        return self.store is not None and self.store.broken

    # --- what can be asked ---

    async def hit(self, rule: Named | Sequence[Named], key: str, cost: int = 1) -> Decision:
        """Count `cost` for a key, if every rule admits it; of several, none is charged where one refuses.

        Raises `ValueError` for a cost that a rule can never admit, `LookupError` for a rule there is not.
        """
        begun = self._begin(rule, key, cost)
        if isinstance(begun, Decision):
            return begun
        answered: asyncio.Future[StoreAnswer] = asyncio.get_running_loop().create_future()
        known = self._ask(begun, answered.set_result)
        return self._finish(begun, await answered) if known is None else known

    def decide(
        self, rule: Named | Sequence[Named], key: str, cost: int, done: Callable[[Decision], None]
    ) -> None:
        """Do as `hit`, but call `done` with the decision: at once, or later on the loop. Needs no task."""
        begun = self._begin(rule, key, cost)
        if isinstance(begun, Decision):
            done(begun)
            return
        known = self._ask(begun, lambda answer: done(self._finish(begun, answer)))
        if known is not None:
            done(known)

    async def wait(
        self,
        rule: Named | Sequence[Named],
        key: str,
        cost: int = 1,
        *,
        timeout_s: float | None = None,
    ) -> Decision:
        """Wait until `hit` admits. Where that would take longer than `timeout_s`, return the refusal, at once.

        Raises as `hit`.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            decision = await self.hit(rule, key, cost)
            delay_s = max(decision.retry_after, SHORTEST_WAIT_S)
            if decision.allowed or (until_s is not None and time.monotonic() + delay_s > until_s):
                return decision
            await asyncio.sleep(delay_s)

    async def peek(self, rule: Named, key: str, cost: int = 1) -> Decision:
        """Say what `hit` would, and count nothing. Raises as `hit`."""
        rules = self._rules_of(rule, key, cost)
        if isinstance(rules, Decision):
            return rules
        (found,) = rules
        if self.store is None:
            return self._decided(rules, [self._memory.peek(found, key, cost)], "local")
        answer = await self._answer_of(self.store, "peek", found, key, cost)
        if isinstance(answer, GivenUp):
            asked = AskedDecision(rules, [self.store.place(found.place, key)], key, cost)
            return self._without_store(asked, answer, charge=False)
        return self._decided(rules, verdicts_of(answer), "redis")

    async def refund(self, rule: Named, key: str, cost: int = 1) -> Decision:
        """Give back what was counted, never more; a key that has ended stays so. Return what `peek` would say.

        Raises `LookupError`, `ValueError` for a cost below 1, and `StoreUnavailableError`.
        """
        return await self._change("refund", rule, key, checked_cost(cost))

    async def charge(self, rule: Named, key: str, cost: int = 1) -> Decision:
        """Count `cost` without asking whether it fits, up to the limit. Raises and returns as `refund`.

        For what is known only afterwards: the size of an answer, the tokens of a model.
        """
        return await self._change("charge", rule, key, checked_cost(cost))

    async def reset(self, rule: Named, key: str) -> Decision:
        """Forget what was counted, and a block, on every node. Raises and returns as `refund`."""
        return await self._change("reset", rule, key, 1)

    async def block(self, rule: Named, key: str, ms: int) -> Decision:
        """Refuse a key for `ms`, at least 1. Raises and returns as `refund`."""
        if type(ms) is not int or not 1 <= ms <= BLOCK_MS_MAX:
            raise ValueError(f"a block is for at least 1 ms and at most {BLOCK_MS_MAX}, not {ms!r}")
        return await self._change("block", rule, key, ms * 1_000)

    def allow(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Admit a key, or every address of a network, uncounted: under one rule or all, for `ttl` seconds or for ever.

        In this process. Raises `ValueError` for a network that is none, or where the lists are full.
        """
        self.lists.add_entry(ListEntry("allow", key, network, rule, self.lists.ends_ms(ttl)))

    def deny(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Refuse a key, or every address of a network; see `allow`."""
        self.lists.add_entry(ListEntry("deny", key, network, rule, self.lists.ends_ms(ttl)))

    def unlist(self, key: str = "", *, network: str = "", rule: str = "") -> bool:
        """Take back what `allow` or `deny` was told of a target and a rule; tell whether there was anything."""
        return self.lists.remove_entry(key=key, network=network, rule=rule)

    # --- slots ---

    def slot(self, rule: Named, key: str, on_lost: Callable[[], None] | None = None) -> "Slot":
        """Return one of a rule's slots, to be held in an `async with`, which raises `NoSlotError` if none is free.

        Raises `LookupError` for a rule there is not, `ValueError` for one whose algorithm is not `slots`.
        """
        from presence_server.throttle.slots import Slot  # noqa: PLC0415 - few need it

        found = self._rule_set.find_rule(rule)
        if found.algorithm != "slots":
            raise ValueError(
                f"rule {found.name!r} counts ({found.algorithm}); a slot needs the algorithm slots"
            )
        return Slot(self, found, key, on_lost)

    def ask_slot(
        self, verb: Verb, rule: Rule, key: str, token: str, done: "Callable[[Verdict | GivenUp], None]"
    ) -> None:
        """Have a slot acquired, renewed or released; `done` is called once, at once or later."""
        store = self.store
        if store is None:
            done(self._memory.change_slot(verb, rule, key, token))
            return

        def answered(answer: StoreAnswer) -> None:
            done(answer if isinstance(answer, GivenUp) else verdicts_of(answer)[0])

        refused = store.ask(verb, [rule], [store.place(rule.place, key)], token, answered)
        if refused is not None:
            done(refused)

    def slot_decision(self, rule: Rule, key: str, token: str, answer: "Verdict | GivenUp") -> Decision:
        """Return the decision about a slot that was asked for."""
        if not isinstance(answer, GivenUp):
            return self._decided([rule], [answer], "local" if self.store is None else "redis")
        verdict, source = self._fallback.judge_slot(rule, key, token)
        return self._decided([rule], [verdict], source, answer.value)

    # --- how it is decided ---

    def _begin(self, rule: Named | Sequence[Named], key: str, cost: int) -> Decision | AskedDecision:
        """Return the decision where this process makes it, else what the shared store is to be asked."""
        rules = self._rules_of(rule, key, cost)
        store = self.store
        if isinstance(rules, Decision):
            return rules
        if store is None:
            return self._decided(rules, self._memory.hit(rules, key, cost), "local")
        return AskedDecision(rules, [store.place(each.place, key) for each in rules], key, cost)

    def _rules_of(self, rule: Named | Sequence[Named], key: str, cost: int) -> Decision | Sequence[Rule]:
        """Return the rules that a decision is made under, or the decision where a list makes it."""
        rules = self._rule_set.resolve(rule, cost)
        if self.lists.any and (ruling := self.lists.find_entry(rules, key)) is not None:
            if not ruling.rules:
                return self._decided([ruling.rule], [ruling.verdict], ruling.source)
            rules = ruling.rules
        return rules

    def _ask(self, asked: AskedDecision, done: Callable[[Any], None]) -> Decision | None:
        """Ask the store, which will answer `done`; or return the decision where it is known already."""
        store = self.store
        assert store is not None  # noqa: S101 - `_begin` has decided without it
        rules, places, _, cost = asked
        if self._denied.entries and (known := self._known_refusal(asked)) is not None:
            return known
        if len(rules) == 1 and rules[0].lease:
            self._spend(store, asked, done)
            return None
        if len(rules) == 1 and cost == 1:
            refused = store.ask_once(rules[0], places[0], done)
        else:
            refused = store.ask("hit", rules, places, cost, done)
        return None if refused is None else self._without_store(asked, refused)

    def _known_refusal(self, asked: AskedDecision) -> Decision | None:
        now = now_us()
        for rule, place in zip(asked.rules, asked.places, strict=True):
            denied = None if rule.shadow else self._denied.find_refusal(place, row_of(rule), asked.cost, now)
            if denied is not None:
                return self._decided([rule], [denied], "deny_cache")
        return None

    def _spend(self, store: "SharedStore", asked: AskedDecision, done: Callable[[Any], None]) -> None:
        """Spend of a batch of tokens, or of the next one that the store gives."""
        (rule,), (place,) = asked.rules, asked.places
        store.follow_loop()  # else it could wait for what was asked in a loop that has ended
        wanted = self._token_batches.spend(rule, place, asked.cost, now_us(), done)
        self._take_tokens(store, rule, place, wanted)

    def _take_tokens(self, store: "SharedStore", rule: Rule, place: str, wanted: int) -> None:
        if not wanted:
            return
        asked_us = now_us()

        def answered(answer: StoreAnswer) -> None:
            if isinstance(answer, GivenUp):
                self._token_batches.fail_waiting(place, answer)
            else:
                more = self._token_batches.filled(rule, place, answer, asked_us, now_us())
                self._take_tokens(store, rule, place, more)

        refused = store.ask("take", [rule], [place], wanted, answered)
        if refused is not None:
            self._token_batches.fail_waiting(place, refused)

    def _finish(self, asked: AskedDecision, answer: StoreAnswer) -> Decision:
        """Make a decision of the store's answer."""
        if isinstance(answer, GivenUp):
            return self._without_store(asked, answer)
        verdicts = verdicts_of(answer)
        if self._fallback.on_error == "share":
            self._shares.note_counts(asked.places, verdicts)
        return self._decided(asked.rules, verdicts, "redis", "" if type(answer) is list else "self")

    def _without_store(self, asked: AskedDecision, why: GivenUp, *, charge: bool = True) -> Decision:
        verdicts, source = self._fallback.judge(asked, why, charge=charge)
        return self._decided(asked.rules, verdicts, source, why.value)

    def _decided(
        self, rules: Sequence[Rule], verdicts: Sequence[Verdict], source: Source, late: Late = ""
    ) -> Decision:
        """Make the decision out of each rule's verdict, and report it to `on_decision`."""
        decision = decision_of(rules, verdicts, source, late)
        if self.on_decision is not None:
            contain("limiter", self.on_decision, decision)  # the application's code
        return decision

    # --- what changes a key ---

    async def _change(self, verb: Verb, rule: Named, key: str, number: int) -> Decision:
        """Change what is counted of one key, on every node."""
        found = self._rule_set.find_rule(rule)
        if found.algorithm == "slots" and verb != "reset":
            raise ValueError(f"rule {found.name!r} has slots: there is no {verb}")
        store = self.store
        if store is None:
            return self._decided([found], [self._memory.change(verb, found, key, number)], "local")
        self._denied.purge(store.place(found.place, key))
        answer = await self._answer_of(store, verb, found, key, number)
        if not isinstance(answer, GivenUp):
            return self._decided([found], verdicts_of(answer), "redis")
        if self._fallback.on_error == "local":
            self._decided([found], [self._memory.change(verb, found, key, number)], "local")
        raise StoreUnavailableError(f"{verb} of rule {found.name!r}")

    async def _answer_of(
        self, store: "SharedStore", verb: Verb, rule: Rule, key: str, number: int
    ) -> StoreAnswer:
        answered: asyncio.Future[StoreAnswer] = asyncio.get_running_loop().create_future()
        refused = store.ask(verb, [rule], [store.place(rule.place, key)], number, answered.set_result)
        return await answered if refused is None else refused

    def _forget(self, place: str | None, given_back: bool) -> None:
        """Forget what is known of a place in the store, None: of all."""
        if not given_back:
            self._token_batches.forget_place(place)
        self._shares.forget_place(place)
        if place is None:
            self._denied.forget_refusals()
        else:
            self._denied.purge(place)

    def _note_refusal(self, place: str, row: RuleRow, cost: int, verdict: StoreVerdicts) -> None:
        """Remember a refusal by the store."""
        self._denied.note_refused(place, row, cost, verdict, now_us())
