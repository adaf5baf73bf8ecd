"""The limiter: rules by name, a store that counts, and what to do when that is out of reach."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeAlias

from presence_server.faults import contain
from presence_server.throttle.batch import (
    ALLOWED,
    Answer,
    GivenUp,
    Numbers,
    Verb,
    deliver_answer,
    verdicts_of,
)
from presence_server.throttle.batches import Batches
from presence_server.throttle.decision import Decision, Late, Source, Verdict
from presence_server.throttle.deny import DenyCache
from presence_server.throttle.errors import StoreUnavailableError
from presence_server.throttle.lists import AccessLists, ListEntry
from presence_server.throttle.memory import KEYS_MAX, MemoryStore, now_us
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule, RuleRow, impossible
from presence_server.throttle.share import Shares

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from presence_server.throttle.cluster import ThrottleClusterStore
    from presence_server.throttle.redis import ThrottleRedisStore
    from presence_server.throttle.slots import Slot

    SharedStore: TypeAlias = ThrottleRedisStore | ThrottleClusterStore

log = logging.getLogger(__name__)

OnError: TypeAlias = Literal["open", "local", "closed", "share"]
OnErrorHook: TypeAlias = Callable[[str, str, int], bool]
DEADLINE_MS: Final = 50
SHORTEST_WAIT_S: Final = 0.001
"""A refusal without a time would be asked about without end."""
COST_MAX: Final = 2**53
"""Above it the store's numbers are not exact."""
BLOCK_MS_MAX: Final = 100 * 366 * 86_400_000
"""A hundred years."""
CLOSED_RETRY_US: Final = 1_000_000
"""When to try again after a refusal because the store is out of reach."""


class Asked(NamedTuple):
    """A decision in the making."""

    rules: Sequence[Rule]
    places: Sequence[str]
    """Where the shared store counts each of them; none where there is no shared store."""
    key: str
    cost: int


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
        self.rules: dict[str, Rule] = {}
        self.on_error: OnError | OnErrorHook = on_error
        self.on_decision = on_decision
        self.lists = AccessLists()
        """Keys and networks that are admitted or refused without being counted."""
        self._memory = MemoryStore(keys_max)
        self._denied = DenyCache(keys_max)
        self._batches = Batches(keys_max, deliver_answer)
        self._shares = Shares(nodes, keys_max)
        self.store: SharedStore | None = None
        """The shared store, where there is one."""
        if redis:
            self.store = _shared_store(redis, prefix, deadline_ms, self._forget, self._refused)
        self.change_rules(rules)

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

    def change_on_error(self, on_error: OnError | OnErrorHook) -> None:
        """Set what decides where the store has not answered in time, from now on."""
        self.on_error = on_error

    def change_rules(self, rules: Iterable[Rule]) -> None:
        """Replace the rules, while running. What has been counted stays; refusals are asked for anew.

        Raises `ValueError` where two have one name; then nothing has changed.
        """
        changed: dict[str, Rule] = {}
        for rule in rules:
            if rule.name in changed:
                raise ValueError(f"two rules are named {rule.name!r}")
            changed[rule.name] = rule
        self.rules = changed
        self._alone = {name: (rule,) for name, rule in changed.items() if rule.algorithm != "slots"}
        self._denied.clear()
        self._batches.forget(None)

    @property
    def broken(self) -> bool:
        """Whether the store is not asked at present: it has failed too often, or cannot be reached."""
        return self.store is not None and self.store.broken

    # --- what can be asked ---

    async def hit(self, rule: str | Rule | Sequence[str | Rule], key: str, cost: int = 1) -> Decision:
        """Count `cost` for a key, if every rule admits it; of several, none is charged where one refuses.

        Raises `ValueError` for a cost that a rule can never admit, `LookupError` for a rule there is not.
        """
        store = self.store
        if cost == 1 and type(rule) is str and not self.lists.any and rule in self._alone:
            # The usual case, without what the others need: a third of the time here, half of it in the store.
            rules = self._alone[rule]
            if store is None:
                return self._hit_one_here(rules[0], key)
            if not self._denied.entries and not rules[0].lease:
                place = store.place(rules[0].place, key)
                told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                refused = store.ask_once(rules[0], place, told.set_result)
                answer = refused if refused is not None else await told
                if type(answer) is list and answer[ALLOWED] and self.on_error != "share":
                    _, remaining, _, reset_us, _ = answer
                    # A named tuple's own constructor is Python.
                    verdict: Verdict = tuple.__new__(Verdict, (True, remaining, 0, reset_us, False))
                    return self._decided_one(rules[0], verdict, "redis")
                return self._finish(Asked(rules, (place,), key, 1), answer)
        asked = self._asked(rule, key, cost)
        if isinstance(asked, Decision):
            return asked
        if store is None:
            return self._hit_here(asked)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        known = self._begin(store, asked, answered.set_result)
        return self._finish(asked, await answered) if known is None else known

    def decide(
        self, rule: str | Rule | Sequence[str | Rule], key: str, cost: int, done: Callable[[Decision], None]
    ) -> None:
        """Do as `hit`, but call `done` with the decision: at once, or later on the loop. Needs no task."""
        asked = self._asked(rule, key, cost)
        if isinstance(asked, Decision):
            done(asked)
            return
        if self.store is None:
            done(self._hit_here(asked))
            return
        known = self._begin(self.store, asked, lambda answer: done(self._finish(asked, answer)))
        if known is not None:
            done(known)

    async def wait(
        self,
        rule: str | Rule | Sequence[str | Rule],
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

    async def peek(self, rule: str | Rule, key: str, cost: int = 1) -> Decision:
        """Say what `hit` would, and count nothing. Raises as `hit`."""
        asked = self._asked(rule, key, cost)
        if isinstance(asked, Decision):
            return asked
        (found,) = asked.rules
        store = self.store
        if store is None:
            return self._look_here("peek", found, key, cost)
        answer = await self._told(store, "peek", found, key, cost)
        if not isinstance(answer, GivenUp):
            return self._decided([found], verdicts_of(answer), "redis")
        if self.on_error == "local":
            return self._look_here("peek", found, key, cost)
        return self._without_store(asked, answer, charge=False)

    async def refund(self, rule: str | Rule, key: str, cost: int = 1) -> Decision:
        """Give back what was counted, never more; a key that has ended stays so. Return what `peek` would say.

        Raises `LookupError`, `ValueError` for a cost below 1, and `StoreUnavailableError`.
        """
        return await self._change("refund", rule, key, self._positive(cost))

    async def charge(self, rule: str | Rule, key: str, cost: int = 1) -> Decision:
        """Count `cost` without asking whether it fits, up to the limit. Raises and returns as `refund`.

        For what is known only afterwards: the size of an answer, the tokens of a model.
        """
        return await self._change("charge", rule, key, self._positive(cost))

    async def reset(self, rule: str | Rule, key: str) -> Decision:
        """Forget what was counted, and a block, on every node. Raises and returns as `refund`."""
        return await self._change("reset", rule, key, 1)

    async def block(self, rule: str | Rule, key: str, ms: int) -> Decision:
        """Refuse a key for `ms`, at least 1. Raises and returns as `refund`."""
        if type(ms) is not int or not 1 <= ms <= BLOCK_MS_MAX:
            raise ValueError(f"a block is for at least 1 ms and at most {BLOCK_MS_MAX}, not {ms!r}")
        return await self._change("block", rule, key, ms * 1_000)

    def allow(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Admit a key, or every address of a network, uncounted: under one rule or all, for `ttl` seconds or for ever.

        In this process. Raises `ValueError` for a network that is none, or where the lists are full.
        """
        self.lists.add(ListEntry("allow", key, network, rule, self.lists.ends_ms(ttl)))

    def deny(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Refuse a key, or every address of a network; see `allow`."""
        self.lists.add(ListEntry("deny", key, network, rule, self.lists.ends_ms(ttl)))

    def unlist(self, key: str = "", *, network: str = "", rule: str = "") -> bool:
        """Take back what `allow` or `deny` was told of a target and a rule; tell whether there was anything."""
        return self.lists.remove(key=key, network=network, rule=rule)

    # --- slots ---

    def slot(self, rule: str | Rule, key: str, on_lost: Callable[[], None] | None = None) -> "Slot":
        """Return one of a rule's slots, to be held in an `async with`, which raises `NoSlotError` if none is free.

        Raises `LookupError` for a rule there is not, `ValueError` for one whose algorithm is not `slots`.
        """
        from presence_server.throttle.slots import Slot  # noqa: PLC0415 - few need it

        found = self._rule(rule)
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
            done(self._slot_here(verb, rule, key, token))
            return

        def answered(answer: Answer) -> None:
            done(answer if isinstance(answer, GivenUp) else verdicts_of(answer)[0])

        refused = store.ask(verb, [rule], [store.place(rule.place, key)], token, answered)
        if refused is not None:
            done(refused)

    def slot_decision(self, rule: Rule, key: str, token: str, answer: "Verdict | GivenUp") -> Decision:
        """Return the decision about a slot that was asked for."""
        if not isinstance(answer, GivenUp):
            return self._decided([rule], [answer], "local" if self.store is None else "redis")
        late: Late = answer.value
        if self.on_error in {"local", "share"}:
            return self._decided([rule], [self._slot_here("acquire", rule, key, token)], "local", late)
        verdict = self._verdict_without_store(rule, key, 1)
        return self._decided([rule], [verdict], "open" if verdict.allowed else "closed", late)

    def _slot_here(self, verb: Verb, rule: Rule, key: str, token: str) -> Verdict:
        memory = self._memory
        verbs = {"acquire": memory.acquire, "renew": memory.renew, "release": memory.release}
        return verbs[verb](rule, key, token)

    # --- how it is decided ---

    def _asked(self, rule: str | Rule | Sequence[str | Rule], key: str, cost: int) -> Asked | Decision:
        rules = self._rules(rule, cost)
        if self.lists.any and (ruling := self.lists.find(rules, key)) is not None:
            if not ruling.rules:
                return self._decided([ruling.rule], [ruling.verdict], ruling.source)
            rules = ruling.rules
        store = self.store
        places = () if store is None else [store.place(found.place, key) for found in rules]
        return Asked(rules, places, key, cost)

    def _rules(self, rule: str | Rule | Sequence[str | Rule], cost: int) -> Sequence[Rule]:
        alone = self._alone.get(rule) if type(rule) is str else None
        if alone is not None and cost == 1:
            return alone
        names = (rule,) if isinstance(rule, str | Rule) else rule
        rules = [self._rule(name) for name in names]
        if not rules:
            raise ValueError("a decision needs a rule")
        places = set()
        if type(cost) is not int:
            raise ValueError(f"a cost is a whole number, not {cost!r}")
        for found in rules:
            if found.place in places:
                raise ValueError(f"rule {found.name!r} is given twice; give it once, with a higher cost")
            places.add(found.place)
            if found.algorithm == "slots":
                raise ValueError(f"rule {found.name!r} has slots, which are acquired and released")
            if not 1 <= cost <= found.count:
                raise ValueError(impossible(found, cost))
        return rules

    def _rule(self, rule: str | Rule) -> Rule:
        if isinstance(rule, Rule):
            return rule
        try:
            return self.rules[rule]
        except KeyError:
            known = ", ".join(self.rules) or "none"
            raise LookupError(f"no rule {rule!r}; there are: {known}") from None

    def _known_refusal(self, asked: Asked) -> Decision | None:
        now = now_us()
        for rule, place in zip(asked.rules, asked.places, strict=True):
            denied = None if rule.shadow else self._denied.find(place, row_of(rule), asked.cost, now)
            if denied is not None:
                return self._decided([rule], [denied], "deny_cache")
        return None

    def _begin(self, store: "SharedStore", asked: Asked, done: Callable[[Any], None]) -> Decision | None:
        """Ask the store, which will answer `done`; or return the decision where it is known already."""
        if self._denied.entries and (known := self._known_refusal(asked)) is not None:
            return known
        if asked.rules[0].lease and len(asked.rules) == 1:
            self._spend(store, asked, done)
            return None
        if asked.cost == 1 and len(asked.rules) == 1:
            refused = store.ask_once(asked.rules[0], asked.places[0], done)
        else:
            refused = store.ask("hit", asked.rules, asked.places, asked.cost, done)
        return None if refused is None else self._without_store(asked, refused)

    def _spend(self, store: "SharedStore", asked: Asked, done: Callable[[Any], None]) -> None:
        """Spend of a batch, or of the next one that the store gives."""
        (rule,), (place,) = asked.rules, asked.places
        store.follow_loop()  # else it could wait for what was asked in a loop that has ended
        self._take(store, rule, place, self._batches.hit(rule, place, asked.cost, now_us(), done))

    def _take(self, store: "SharedStore", rule: Rule, place: str, wanted: int) -> None:
        if not wanted:
            return
        asked_us = now_us()

        def answered(answer: Answer) -> None:
            if isinstance(answer, GivenUp):
                self._batches.failed(place, answer)
            else:
                self._take(store, rule, place, self._batches.filled(rule, place, answer, asked_us, now_us()))

        refused = store.ask("take", [rule], [place], wanted, answered)
        if refused is not None:
            self._batches.failed(place, refused)

    def _finish(self, asked: Asked, answer: Answer) -> Decision:
        """Make a decision of the store's answer, and remember a refusal."""
        if isinstance(answer, GivenUp):
            return self._without_store(asked, answer)
        late: Late = "self" if type(answer) is not list else ""
        verdicts = verdicts_of(answer)
        if self.on_error == "share":
            self._shares.note(asked.places, verdicts)
        return self._decided(asked.rules, verdicts, "redis", late)

    def _refused(self, place: str, row: RuleRow, cost: int, said: Numbers) -> None:
        """Remember a refusal."""
        self._denied.note(place, row, cost, said, now_us())

    def _hit_one_here(self, rule: Rule, key: str) -> Decision:
        """Decide as `_hit_here` for the usual case, in a third of the time."""
        verdict = self._memory.hit_one(rule, key, 1)
        if rule.shadow and not verdict[0]:
            return self._decided((rule,), (verdict,), "local")
        return self._decided_one(rule, verdict, "local")

    def _decided_one(self, rule: Rule, verdict: Verdict, source: Source) -> Decision:
        """Make the decision of one rule, made in time; not for a rule in shadow mode that refuses."""
        allowed, remaining, retry_us, reset_us, _ = verdict
        fields = (
            allowed,
            rule.count,
            remaining,
            retry_us / 1e6,
            reset_us / 1e6,
            rule.name,
            source,
            rule.window_s,
            False,
            ((rule, verdict),),
            "",
        )
        decision: Decision = tuple.__new__(Decision, fields)  # a named tuple's own constructor is Python
        if self.on_decision is not None:
            contain("limiter", self.on_decision, decision)
        return decision

    def _hit_here(self, asked: Asked, late: Late = "") -> Decision:
        """Decide in this process alone."""
        rules = asked.rules
        if len(rules) == 1:
            verdict = self._memory.hit_one(rules[0], asked.key, asked.cost)
            return self._decided(rules, (verdict,), "local", late)
        return self._decided(rules, self._memory.hit(rules, asked.key, asked.cost), "local", late)

    def _without_store(self, asked: Asked, why: GivenUp, *, charge: bool = True) -> Decision:
        """Decide as `on_error` says."""
        late: Late = why.value
        rules = asked.rules
        if self.on_error == "local" or (why is GivenUp.LATE_SELF and self.on_error == "open"):
            # Whoever asks for more than this process can ask the store for must not be admitted for it.
            return self._hit_here(asked, late)
        if self.on_error == "share":
            parts = self._shares.hit(rules, asked.places, asked.key, asked.cost, charge=charge)
            return self._decided(rules, parts, "share", late)
        verdicts = [self._verdict_without_store(rule, asked.key, asked.cost) for rule in rules]
        refused = any(not v.allowed and not rule.shadow for rule, v in zip(rules, verdicts, strict=True))
        return self._decided(rules, verdicts, "closed" if refused else "open", late)

    def _verdict_without_store(self, rule: Rule, key: str, cost: int) -> Verdict:
        allowed = self.on_error == "open"
        if callable(self.on_error):
            try:
                allowed = self.on_error(rule.name, key, cost)
            except Exception:
                # It admits, as by default: a limiter must not be an outage of its own.
                log.exception("on_error failed; it admits")
                allowed = True
        retry_us = 0 if allowed else CLOSED_RETRY_US
        return Verdict(allowed, rule.count if allowed else 0, retry_us, retry_us)

    def _decided(
        self, rules: Sequence[Rule], verdicts: Sequence[Verdict], source: Source, late: Late = ""
    ) -> Decision:
        """Make the decision out of each rule's verdict."""
        rule, verdict = rules[0], verdicts[0]
        checks: tuple[tuple[Rule, Verdict], ...] = ((rule, verdict),)
        would_deny = False
        if len(rules) > 1 or not verdict.allowed:
            checks = (*zip(rules, verdicts, strict=True),)
            would_deny = any(r.shadow and not v.allowed for r, v in checks)
            rule, verdict = max(checks, key=_severity)
            if rule.shadow and not verdict.allowed:
                verdict = verdict._replace(allowed=True, retry_us=0)
        allowed, remaining, retry_us, reset_us, _ = verdict
        decision = Decision(
            allowed,
            rule.count,
            remaining,
            retry_us / 1e6,
            reset_us / 1e6,
            rule.name,
            source,
            rule.window_s,
            would_deny,
            checks,
            late,
        )
        if self.on_decision is not None:
            contain("limiter", self.on_decision, decision)  # the application's code
        return decision

    # --- what changes a key ---

    async def _change(self, verb: Verb, rule: str | Rule, key: str, number: int) -> Decision:
        """Change what is counted of one key, on every node."""
        found = self._rule(rule)
        if found.algorithm == "slots" and verb != "reset":
            raise ValueError(f"rule {found.name!r} has slots: there is no {verb}")
        store = self.store
        if store is None:
            return self._look_here(verb, found, key, number)
        self._denied.purge(store.place(found.place, key))
        answer = await self._told(store, verb, found, key, number)
        if not isinstance(answer, GivenUp):
            return self._decided([found], verdicts_of(answer), "redis")
        if self.on_error == "local":
            self._look_here(verb, found, key, number)
        raise StoreUnavailableError(f"{verb} of rule {found.name!r}")

    async def _told(self, store: "SharedStore", verb: Verb, rule: Rule, key: str, number: int) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        refused = store.ask(verb, [rule], [store.place(rule.place, key)], number, answered.set_result)
        return await answered if refused is None else refused

    def _look_here(self, verb: Verb, rule: Rule, key: str, number: int) -> Decision:
        memory = self._memory
        looks: dict[str, Callable[[], Verdict]] = {
            "peek": lambda: memory.peek(rule, key, number),
            "refund": lambda: memory.refund(rule, key, number),
            "charge": lambda: memory.charge(rule, key, number),
            "reset": lambda: memory.reset(rule, key),
            "block": lambda: memory.block(rule, key, number),
        }
        return self._decided([rule], [looks[verb]()], "local")

    @staticmethod
    def _positive(cost: int) -> int:
        if type(cost) is not int or not 1 <= cost <= COST_MAX:
            raise ValueError(f"a cost is a whole number from 1 to {COST_MAX}, not {cost!r}")
        return cost

    def _forget(self, place: str | None, given_back: bool) -> None:
        if not given_back:
            self._batches.forget(place)
        self._shares.forget(place)
        if place is None:
            self._denied.clear()
        else:
            self._denied.purge(place)


def _shared_store(
    redis: "str | Redis",
    prefix: str,
    deadline_ms: int,
    forget: Callable[[str | None, bool], None],
    refused: Callable[[str, RuleRow, int, Numbers], None],
) -> "SharedStore":
    """Return the store; redis-py is imported only where there is one."""
    from presence_server.config.store_url import Topology, parse_store_url  # noqa: PLC0415 - see above
    from presence_server.redis_io.client import RedisClient  # noqa: PLC0415 - see above
    from presence_server.redis_io.keys import Keys  # noqa: PLC0415 - see above
    from presence_server.throttle.redis import ThrottleRedisStore  # noqa: PLC0415 - see above
    from presence_server.throttle.store_connection import CONNECT_S  # noqa: PLC0415 - see above

    if isinstance(redis, str) and (url := parse_store_url(redis)).topology is Topology.CLUSTER:
        from presence_server.throttle.cluster import ThrottleClusterStore  # noqa: PLC0415 - see above

        return ThrottleClusterStore(url, Keys(prefix), deadline_ms, forget, refused)
    return ThrottleRedisStore(RedisClient(redis, CONNECT_S), Keys(prefix), deadline_ms, forget, refused)


def _severity(said: tuple[Rule, Verdict]) -> tuple[bool, int, int]:
    """Return what the verdict of several that counts has most of: a refusal, the longest, then little remaining."""
    rule, verdict = said
    refuses = not verdict.allowed and not rule.shadow
    return refuses, verdict.retry_us if refuses else 0, -verdict.remaining
