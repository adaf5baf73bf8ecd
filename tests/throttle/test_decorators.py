"""Limits on functions: by name, text, rule or function; keys, costs, exemptions, refunds."""

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from presence_server.throttle import Limiter, Rule, SyncLimiter, ThrottledError, TooCostlyError
from presence_server.throttle.arguments import rule_name
from presence_server.throttle.decorators import counted, limit, sync_counted
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]
RULES = [Rule("mails", "2/1h"), Rule("all", "3/1h")]


@pytest.fixture(params=["shared", "alone"])
async def limiter(request: pytest.FixtureRequest, empty_server: RedisServer) -> AsyncIterator[Limiter]:
    url = empty_server.url if request.param == "shared" else ""
    async with Limiter(RULES, redis=url, deadline_ms=20_000) as limiter:
        yield limiter


@pytest.fixture(params=["shared", "alone"])
def sync_limiter(request: pytest.FixtureRequest, empty_server: RedisServer) -> Iterator[SyncLimiter]:
    url = empty_server.url if request.param == "shared" else ""
    with SyncLimiter(RULES, redis=url, deadline_ms=20_000) as limiter:
        yield limiter


async def test_an_async_function_is_held_to_a_limit_by_its_arguments(limiter: Limiter) -> None:
    sent = []

    @limit("2/hour", limiter=limiter, key=lambda user: user)
    async def send(user: str, text: str) -> int:
        """Send a text."""
        sent.append(text)
        return len(sent)

    assert [await send("ann", "a"), await send("ann", text="b"), await send("bob", "c")] == [1, 2, 3]
    with pytest.raises(ThrottledError) as refused:
        await send("ann", "d")
    assert sent == ["a", "b", "c"]
    decision = refused.value.decision
    assert not decision.allowed
    assert 3_590 < decision.retry_after <= 3_600
    assert refused.value.headers()["Retry-After"] == "3600"
    assert refused.value.problem()["violated-policies"] == [decision.rule]
    assert decision.rule.endswith("send")
    assert (send.__name__, send.__doc__) == ("send", "Send a text.")
    assert list(inspect.signature(send).parameters) == ["user", "text"]


def test_so_is_a_function_that_is_not_async(sync_limiter: SyncLimiter) -> None:
    class Mailer:
        @limit("mails", limiter=sync_limiter, key=lambda user: user)
        def send(self, user: str) -> str:
            return user

    mailer = Mailer()
    assert [mailer.send("ann"), mailer.send("ann"), mailer.send("bob")] == ["ann", "ann", "bob"]
    with pytest.raises(ThrottledError, match="rule 'mails': try again in"):
        mailer.send("ann")
    assert sync_limiter.peek("mails", "ann").remaining == 0


async def test_a_rule_by_name_or_a_name_of_its_own_is_shared_and_a_text_is_not(limiter: Limiter) -> None:
    def made(given: Any, **options: Any) -> Any:
        @limit(given, limiter=limiter, key="everybody", **options)
        async def function() -> None: ...

        return function

    async def admitted(function: Any) -> bool:
        try:
            await function()
        except ThrottledError:
            return False
        return True

    first, second = made("mails"), made("mails")
    assert [await admitted(f) for f in (first, second, first)] == [True, True, False]
    first, second = made("1/1h", name="shared"), made("1/1h", name="shared")
    assert [await admitted(f) for f in (first, second)] == [True, False]
    both = made(["all", Rule("own", "1/1h")])
    assert [await admitted(both), await admitted(both)] == [True, False]
    assert (await limiter.peek("all", "everybody")).remaining == 2

    @limit("1/1h", limiter=limiter, key="everybody")
    async def other() -> None: ...

    alone = made("1/1h")
    assert [await admitted(alone), await admitted(other), await admitted(other)] == [True, True, False]


async def test_a_limit_may_depend_on_the_customer(limiter: Limiter) -> None:
    plans = {"free": "1/1h", "pro": "3/1h", "own": Rule("of-the-house", "2/1h"), "unlimited": None}

    async def plan(user: str) -> Any:
        return plans[user]

    @limit(plan, limiter=limiter, key=lambda user: user)
    async def search(user: str) -> None: ...

    async def searches(user: str) -> int:
        for count in range(10):
            try:
                await search(user)
            except ThrottledError:
                return count
        return 10

    assert [await searches(user) for user in plans] == [1, 3, 2, 10]
    plans["free"] = "3/1h"  # an upgrade counts at once, on every node
    assert await searches("free") == 3
    plans["free"] = "3/fortnight"
    with pytest.raises(ValueError, match="'3/fortnight' is neither a rule of the limiter"):
        await search("free")


async def test_what_is_exempt_or_has_no_key_or_costs_nothing_is_not_counted(limiter: Limiter) -> None:
    async def staff(user: str) -> bool:
        return user == "staff"

    @limit(
        "mails",
        limiter=limiter,
        key=lambda user: None if user == "nobody" else "k",
        cost=lambda cost: cost,
        exempt=staff,
    )
    async def send(user: str, cost: int) -> None:
        if user != "ann" or cost == 0:
            with pytest.raises(LookupError):
                counted()

    for user, cost in [("staff", 1), ("nobody", 1), ("ann", 0)]:
        for _ in range(4):
            await send(user, cost)
    await send("ann", 2)
    with pytest.raises(ThrottledError):
        await send("ann", 1)
    with pytest.raises(TooCostlyError, match="rule 'mails' admits a cost from 1 to 2, not 3") as too_much:
        await send("bob", 3)
    assert too_much.value.status == 413
    assert too_much.value.headers() == {"RateLimit-Policy": '"mails";q=2;w=3600'}


async def test_what_a_call_cost_may_be_given_back(limiter: Limiter) -> None:
    @limit(["mails", "all"], limiter=limiter, key="k", cost=2)
    async def send(back: int | None) -> None:
        assert counted().cost == 2
        assert counted().decision.allowed
        assert await counted().refund(back)

    await send(None)
    assert (await limiter.peek("mails", "k")).remaining == 2

    @limit("all", limiter=limiter, key="charged")
    async def report(more: int) -> None:
        await counted().charge(more)

    await report(1)
    assert (await limiter.peek("all", "charged")).remaining == 1
    await report(100)
    assert (await limiter.peek("all", "charged")).remaining == 0
    await send(1)
    assert [(await limiter.peek(name, "k")).remaining for name in ("mails", "all")] == [1, 2]


def test_so_may_that_of_a_function_that_is_not_async(sync_limiter: SyncLimiter) -> None:
    @limit("mails", limiter=sync_limiter, key="k")
    def outer() -> None:
        inner()
        assert sync_counted().refund()

    @limit("all", limiter=sync_limiter, key="k", cost=2)
    def inner() -> None:
        assert sync_counted().cost == 2
        sync_counted().charge(1)

    outer()
    assert sync_limiter.peek("mails", "k").remaining == 2
    assert sync_limiter.peek("all", "k").remaining == 0


async def test_what_nobody_counted_is_not_given_back(server: RedisServer) -> None:
    async with Limiter(RULES, redis=server.url, on_error="local", deadline_ms=200) as limiter:
        server.freeze()

        @limit("mails", limiter=limiter, key="k")
        async def send() -> bool:
            return await counted().refund()

        assert await send() is False
        server.kill()


async def test_mistakes_are_found_where_the_function_is_defined(limiter: Limiter) -> None:
    with SyncLimiter(RULES) as sync_limiter:

        async def asynchronous() -> None: ...
        def synchronous() -> None: ...

        with pytest.raises(TypeError, match="asynchronous is async: give it a Limiter, not a SyncLimiter"):
            limit("mails", limiter=sync_limiter, key="k")(asynchronous)
        with pytest.raises(TypeError, match="synchronous is not async: give it a SyncLimiter, not a Limiter"):
            limit("mails", limiter=limiter, key="k")(synchronous)
        with pytest.raises(
            ValueError, match=r"'mials' is neither a rule of the limiter \(mails, all\) nor a limit"
        ):
            limit("mials", limiter=limiter, key="k")
        for cost in (0, 3):
            with pytest.raises(ValueError, match=f"rule 'mails' admits a cost from 1 to 2, not {cost}"):
                limit("mails", limiter=limiter, key="k", cost=cost)

        async def key() -> str:
            await asyncio.sleep(0)
            return "k"

        held = limit("mails", limiter=sync_limiter, key=key)(synchronous)
        with pytest.raises(TypeError, match="synchronous is not async: its key, cost, limit and exempt"):
            held()


async def test_a_function_gets_the_arguments_of_the_call_that_it_names(limiter: Limiter) -> None:
    got: list[Any] = []

    def made(key: Any) -> Any:
        @limit("all", limiter=limiter, key=key)
        async def function(a: str, /, b: str, c: str = "C", *args: str, d: str, **rest: str) -> None: ...

        return function

    def note(*args: Any, **kwargs: Any) -> None:
        got.append((args, kwargs))

    def named(a: str, c: str, e: str = "E") -> None:
        got.append((a, c, e))

    await made(note)("1", "2", d="3", x="4")
    await made(named)("1", "2", d="3")
    await made(named)("1", d="3", b="2", c="5", e="6")
    await made(lambda: None)("1", "2", d="3")
    await made(lambda b, d: got.append((b, d)))("1", b="2", d="3")
    assert got == [(("1", "2"), {"d": "3", "x": "4"}), ("1", "C", "E"), ("1", "5", "6"), ("2", "3")]

    with pytest.raises(
        TypeError, match=r"function has no argument 'user', which its key needs; there are: name"
    ):

        @limit("all", limiter=limiter, key=lambda user: user)
        async def function(name: str) -> None: ...


async def test_an_error_may_be_carried_to_another_process(limiter: Limiter) -> None:
    @limit(["mails", Rule("daily", "9/day")], limiter=limiter, key="k", cost=lambda cost: cost)
    async def send(cost: int) -> None: ...

    await send(2)
    for cost, kind in ((1, ThrottledError), (10, TooCostlyError)):
        with pytest.raises(ThrottledError) as refused:
            await send(cost)
        carried = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
        assert isinstance(carried, ThrottledError)
        assert isinstance(carried, kind)
        assert str(carried) == str(refused.value)
        assert carried.decision == refused.value.decision
        assert carried.headers() == refused.value.headers()
        assert carried.problem() == refused.value.problem()


async def test_a_rule_that_was_taken_away_refuses_nothing_and_is_logged_once(
    limiter: Limiter, caplog: pytest.LogCaptureFixture
) -> None:
    @limit("mails", limiter=limiter, key="k")
    async def send() -> None: ...

    limiter.change_rules([])
    for _ in range(4):
        await send()
    assert len(caplog.records) == 1
    assert "'mails' is neither a rule of the limiter (none)" in caplog.text


def test_a_name_that_no_rule_may_have_is_made_one() -> None:
    assert rule_name("GET /items") == "GET /items"
    names = {rule_name(text) for text in ("GET /é", "GET /è", "", "x" * 65, "y" + "x" * 64)}
    assert len(names) == 5
    for name in names:
        assert Rule(name, "1/1h").name == name
