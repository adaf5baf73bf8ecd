"""The limiter: rules by name, a store that counts, and what to do when that is out of reach."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.throttle.decision import Decision, Source, Verdict
from presence_server.throttle.deny import DenyCache
from presence_server.throttle.lists import AccessLists, ListEntry, Ruling
from presence_server.throttle.memory import KEYS_MAX, MemoryStore, now_us
from presence_server.throttle.redis import RedisStore, Said, verdicts
from presence_server.throttle.rule import Rule

if TYPE_CHECKING:
    from redis.asyncio import Redis

OnError: TypeAlias = Literal["open", "local", "closed"]
OnErrorHook: TypeAlias = Callable[[str, str, int], bool]
DEADLINE_MS: Final = 50
CLOSED_RETRY_US: Final = 1_000_000
"""When to try again after a refusal because the store is out of reach."""


class Limiter:
    """Says whether something may happen, counted over every process that shares the store.

    - `redis`: the URL of a Redis or Valkey, or a client of `redis.asyncio`, whose server is used over
      connections of the limiter's own; "": this process counts by itself.
    - `prefix`: of every key in the store.
    - `on_error`: what becomes of a decision that the store has not made within `deadline_ms`: `open` admits,
      `closed` refuses, `local` lets this process alone decide; a function of the rule's name, the key and the
      cost returns whether to admit.
    - `keys_max`: how many keys this process counts by itself.
    - `on_decision` is told every decision, for metrics.

    To be used in one event loop; close it with `aclose`, or as an asynchronous context manager. Nothing is
    connected before the first decision.
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
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        self.rules: dict[str, Rule] = {}
        self.on_error: OnError | OnErrorHook = on_error
        self.on_decision = on_decision
        self.lists = AccessLists()
        """Keys and networks that are admitted or refused without being counted."""
        self._memory = MemoryStore(keys_max)
        self._denied = DenyCache(keys_max)
        self.store: RedisStore | None = None
        """The shared store, where there is one."""
        if redis:
            client = RedisClient(redis, deadline_ms / 1_000)
            self.store = RedisStore(client, Keys(prefix), deadline_ms)
            self.store.forget = self._forget
        self.change_rules(rules)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; decisions that are under way are made as `on_error` says."""
        if self.store is not None:
            await self.store.aclose()

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
        self._alone = {name: (rule,) for name, rule in changed.items()}
        self._denied.clear()

    @property
    def broken(self) -> bool:
        """Whether the store has failed so often that it is not asked at present."""
        return self.store is not None and self.store.breaker.open

    # --- what can be asked ---

    async def hit(  # noqa: PLR0911 - each is a way to decide
        self, rule: str | Rule | Sequence[str | Rule], key: str, cost: int = 1
    ) -> Decision:
        """Count `cost` for a key, if every rule admits it; of several, none is charged where one refuses.

        Raises `ValueError` for a cost that a rule can never admit, `LookupError` for a rule there is not.
        """
        store = self.store
        rules = self._rules(rule, cost)
        if self.lists.any and (ruling := self.lists.find(rules, key)) is not None:
            if not ruling.rules:
                return self._listed(ruling)
            rules = ruling.rules
        if store is None:
            return self._hit_here(rules, key, cost)
        if cost == 1 and len(rules) == 1 and not self._denied.any:
            place = store.place(rules[0].place, key)
            answered: asyncio.Future[Said | None] = asyncio.get_running_loop().create_future()
            if not store.ask_once(rules[0], place, answered.set_result):
                return self._without_store(rules, key, cost)
            return self._understood(rules, (place,), key, cost, await answered)
        places = [store.place(rule.place, key) for rule in rules]
        if self._denied.any and (known := self._known_refusal(rules, places, cost)) is not None:
            return known
        answer: asyncio.Future[Said | None] = asyncio.get_running_loop().create_future()
        if not store.ask("hit", rules, places, cost, answer.set_result):
            return self._without_store(rules, key, cost)
        return self._understood(rules, places, key, cost, await answer)

    def decide(
        self, rule: str | Rule | Sequence[str | Rule], key: str, cost: int, done: Callable[[Decision], None]
    ) -> None:
        """Do as `hit`, but call `done` with the decision: at once, or later on the loop. Needs no task."""
        rules = self._rules(rule, cost)
        if self.lists.any and (ruling := self.lists.find(rules, key)) is not None:
            if not ruling.rules:
                done(self._listed(ruling))
                return
            rules = ruling.rules
        store = self.store
        if store is None:
            done(self._hit_here(rules, key, cost))
            return
        places = [store.place(rule.place, key) for rule in rules]
        if self._denied.any and (known := self._known_refusal(rules, places, cost)) is not None:
            done(known)
            return

        def answered(said: Said | None) -> None:
            done(self._understood(rules, places, key, cost, said))

        if not store.ask("hit", rules, places, cost, answered):
            done(self._without_store(rules, key, cost))

    async def peek(self, rule: str | Rule, key: str, cost: int = 1) -> Decision:
        """Say what `hit` would, and count nothing. Raises as `hit`."""
        (found,) = self._rules(rule, cost)
        if self.lists.any and (ruling := self.lists.find((found,), key)) is not None:
            return self._listed(ruling)
        return await self._one("peek", found, key, cost)

    async def refund(self, rule: str | Rule, key: str, cost: int = 1) -> Decision:
        """Give back what was counted, never more; a key that has ended stays so. Return as `peek` does."""
        (found,) = self._rules(rule, cost)
        return await self._one("refund", found, key, cost)

    async def reset(self, rule: str | Rule, key: str) -> Decision:
        """Forget what was counted, and a block, on every node. Return what `peek` would say."""
        (found,) = self._rules(rule, 1)
        return await self._one("reset", found, key, 1)

    async def block(self, rule: str | Rule, key: str, ms: int) -> Decision:
        """Refuse a key for `ms`, at least 1. Return what `peek` would say."""
        if ms < 1:
            raise ValueError(f"a block is for at least 1 ms, not {ms}")
        (found,) = self._rules(rule, 1)
        return await self._one("block", found, key, ms * 1_000)

    def allow(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Admit a key, or every address of a network, uncounted: under one rule or all, for `ttl` seconds or for ever.

        In this process. Raises `ValueError` for a network that is none, or where the lists are full.
        """
        self.lists.add(ListEntry("allow", key, network, rule, _ends_ms(ttl)))

    def deny(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Refuse a key, or every address of a network; see `allow`."""
        self.lists.add(ListEntry("deny", key, network, rule, _ends_ms(ttl)))

    def unlist(self, key: str = "", *, network: str = "", rule: str = "") -> bool:
        """Take back what `allow` or `deny` was told of a target and a rule; tell whether there was anything."""
        return self.lists.remove(key=key, network=network, rule=rule)

    # --- how it is decided ---

    def _rules(self, rule: str | Rule | Sequence[str | Rule], cost: int) -> Sequence[Rule]:
        alone = self._alone.get(rule) if type(rule) is str else None
        if alone is not None and cost == 1:
            return alone
        names = (rule,) if isinstance(rule, str | Rule) else rule
        rules = [self._rule(name) for name in names]
        if not rules:
            raise ValueError("a decision needs a rule")
        places = set()
        for found in rules:
            if found.place in places:
                raise ValueError(f"rule {found.name!r} is given twice; give it once, with a higher cost")
            places.add(found.place)
            if not 1 <= cost <= found.count:
                raise ValueError(f"rule {found.name!r} admits a cost from 1 to {found.count}, not {cost}")
        return rules

    def _rule(self, rule: str | Rule) -> Rule:
        if isinstance(rule, Rule):
            return rule
        try:
            return self.rules[rule]
        except KeyError:
            known = ", ".join(self.rules) or "none"
            raise LookupError(f"no rule {rule!r}; there are: {known}") from None

    def _listed(self, ruling: Ruling) -> Decision:
        """Decide as the lists say."""
        checks = ((ruling.rule, ruling.verdict),)
        return self._decision(ruling.rule, ruling.verdict, ruling.source, checks)

    def _known_refusal(self, rules: Sequence[Rule], places: Sequence[str], cost: int) -> Decision | None:
        now = now_us()
        for rule, place in zip(rules, places, strict=True):
            denied = self._denied.find(place, cost, now)
            if denied is not None:
                return self._decided([rule], [denied], "deny_cache")
        return None

    def _understood(
        self, rules: Sequence[Rule], places: Sequence[str], key: str, cost: int, said: Said | None
    ) -> Decision:
        """Make a decision of what the store said, and remember a refusal."""
        if said is None:
            return self._without_store(rules, key, cost)
        if said[0] and len(said) == 5:
            rule, reset_s = rules[0], said[3] / 1e6
            checks = ((rule, Verdict(True, said[1], 0, said[3])),)
            decision = Decision(
                True, rule.count, said[1], 0.0, reset_s, rule.name, "redis", rule.window_s, False, checks
            )
            if self.on_decision is not None:
                self.on_decision(decision)
            return decision
        answers = verdicts(said)
        for rule, place, verdict in zip(rules, places, answers, strict=True):
            if not verdict.allowed and not rule.shadow:
                self._denied.note(place, cost, verdict, now_us())
        return self._decided(rules, answers, "redis")

    def _hit_here(self, rules: Sequence[Rule], key: str, cost: int) -> Decision:
        """Decide in this process alone."""
        if len(rules) == 1:
            return self._decided(rules, (self._memory.hit_one(rules[0], key, cost),), "local")
        return self._decided(rules, self._memory.hit(rules, key, cost), "local")

    def _without_store(self, rules: Sequence[Rule], key: str, cost: int) -> Decision:
        """Decide as `on_error` says."""
        if self.on_error == "local":
            return self._hit_here(rules, key, cost)
        rule = rules[0]
        allowed = self.on_error(rule.name, key, cost) if callable(self.on_error) else self.on_error == "open"
        retry_us = 0 if allowed else CLOSED_RETRY_US
        verdict = Verdict(allowed, rule.count if allowed else 0, retry_us, retry_us)
        return self._decided([rule], [verdict], "open" if allowed else "closed")

    def _decided(self, rules: Sequence[Rule], verdicts: Sequence[Verdict], source: Source) -> Decision:
        """Make the decision out of each rule's verdict."""
        rule, verdict = rules[0], verdicts[0]
        would_deny = False
        if len(rules) > 1 or not verdict.allowed:
            would_deny = any(r.shadow and not v.allowed for r, v in zip(rules, verdicts, strict=True))
            rule, verdict = max(zip(rules, verdicts, strict=True), key=_severity)
            if rule.shadow and not verdict.allowed:
                verdict = verdict._replace(allowed=True, retry_us=0)
        checks = tuple(zip(rules, verdicts, strict=True))
        return self._decision(rule, verdict, source, checks, would_deny=would_deny)

    def _decision(
        self,
        rule: Rule,
        verdict: Verdict,
        source: Source,
        checks: tuple[tuple[Rule, Verdict], ...],
        *,
        would_deny: bool = False,
    ) -> Decision:
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
        )
        if self.on_decision is not None:
            self.on_decision(decision)
        return decision

    async def _one(self, verb: str, rule: Rule, key: str, cost: int) -> Decision:
        """Ask something about one key; where the store is out of reach, of this process alone."""
        store = self.store
        if store is None:
            return self._look_here(verb, rule, key, cost)
        place = store.place(rule.place, key)
        self._denied.purge(place)
        answer: asyncio.Future[Said | None] = asyncio.get_running_loop().create_future()
        if store.ask(verb, [rule], [place], cost, answer.set_result):
            said = await answer
            if said is not None:
                return self._decided([rule], verdicts(said), "redis")
        return self._look_here(verb, rule, key, cost)

    def _look_here(self, verb: str, rule: Rule, key: str, cost: int) -> Decision:
        memory = self._memory
        looks: dict[str, Callable[[], Verdict]] = {
            "peek": lambda: memory.peek(rule, key, cost),
            "refund": lambda: memory.refund(rule, key, cost),
            "reset": lambda: memory.reset(rule, key),
            "block": lambda: memory.block(rule, key, cost),
        }
        return self._decided([rule], [looks[verb]()], "local")

    def _forget(self, place: str | None) -> None:
        if place is None:
            self._denied.clear()
        else:
            self._denied.purge(place)


def _severity(said: tuple[Rule, Verdict]) -> tuple[bool, int, int]:
    """Return what the verdict of several that counts has most of: a refusal, the longest, then little remaining."""
    rule, verdict = said
    refuses = not verdict.allowed and not rule.shadow
    return refuses, verdict.retry_us if refuses else 0, -verdict.remaining


def _ends_ms(ttl: float | None) -> int:
    """Return when an entry ends that lasts `ttl` seconds; 0: never."""
    if ttl is None:
        return 0
    if ttl <= 0:
        raise ValueError(f"an entry lasts longer than {ttl} s")
    return time.time_ns() // 1_000_000 + int(ttl * 1_000)
