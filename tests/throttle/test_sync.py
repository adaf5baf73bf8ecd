"""The limiter for threads: the same decisions, any number of threads, forks, and ends."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import pytest

from presence_server.throttle import Decision, Limiter, Rule, SyncLimiter
from presence_server.throttle.slots import NoSlotError
from tests.docs.pages import PROJECT
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.one_kind

RULES = [Rule("login", "5/1h"), Rule("api", "100/1h")]
DEADLINE_S = 60


@pytest.fixture(params=["shared", "alone"])
def limiter(request: pytest.FixtureRequest, empty_server: RedisServer) -> Iterator[SyncLimiter]:
    url = empty_server.url if request.param == "shared" else ""
    with SyncLimiter(RULES, redis=url, deadline_ms=20_000) as limiter:
        yield limiter
    assert not any(thread.name == "presence-throttle" for thread in threading.enumerate())


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    command = [
        sys.executable,
        "-W",
        "default::ResourceWarning",
        "-W",
        "ignore:This process:DeprecationWarning",
        "-c",
        code,
        *arguments,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=PROJECT
    )


def test_it_takes_the_options_of_the_other_limiter() -> None:
    options = [
        {name: option.default for name, option in signature(kind).parameters.items()}
        for kind in (Limiter, SyncLimiter)
    ]
    assert options[0] == options[1]


def test_each_process_has_its_part_while_the_store_is_away() -> None:
    with SyncLimiter(
        [Rule("five", "5/1h")], redis="redis://127.0.0.1:1", on_error="share", nodes=5
    ) as limiter:
        decisions = [limiter.hit("five", "k") for _ in range(3)]
    assert [(decision.source, decision.allowed) for decision in decisions] == [
        ("share", True),
        ("share", False),
        ("share", False),
    ]


def test_it_decides_as_the_other_limiter_does(limiter: SyncLimiter) -> None:
    decisions = [limiter.hit("login", "ann") for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert [decision.remaining for decision in decisions] == [4, 3, 2, 1, 0, 0]
    assert limiter.hit(["login", "api"], "bob", 2).remaining == 3
    assert limiter.peek("login", "bob").remaining == 3
    assert limiter.refund("login", "bob").remaining == 4
    assert limiter.reset("login", "ann").remaining == 5
    assert not limiter.block("login", "ann", 60_000).allowed
    assert limiter.rules["login"] is RULES[0]


def test_mistakes_are_raised_where_they_are_made(limiter: SyncLimiter) -> None:
    with pytest.raises(LookupError, match="no rule 'lgoin'; there are: login, api"):
        limiter.hit("lgoin", "ann")
    with pytest.raises(ValueError, match="admits a cost from 1 to 5, not 6"):
        limiter.peek("login", "ann", 6)
    with pytest.raises(ValueError, match="two rules are named"):
        limiter.change_rules([RULES[0], RULES[0]])
    with pytest.raises(ValueError, match="two rules are named"):
        SyncLimiter([RULES[0], RULES[0]])
    limiter.change_rules([Rule("login", "1/1h")])
    assert limiter.hit("login", "new").remaining == 0


def test_many_threads_are_admitted_to_the_limit_and_no_further(limiter: SyncLimiter) -> None:
    def hits(_: int) -> list[bool]:
        return [limiter.hit("api", "all").allowed for _ in range(25)]

    with ThreadPoolExecutor(16) as threads:
        admitted = [allowed for found in threads.map(hits, range(16)) for allowed in found]
    assert len(admitted) == 400
    assert sum(admitted) == 100


def test_waiting_is_until_it_is_admitted_or_no_use(limiter: SyncLimiter) -> None:
    limiter.change_rules([Rule("often", "1/200ms"), Rule("seldom", "1/1h")])
    assert all(limiter.wait("often", "ann").allowed for _ in range(3))
    limiter.hit("seldom", "ann")
    assert not limiter.wait("seldom", "ann", timeout_s=60).allowed


def test_a_slot_is_held_for_as_long_as_it_takes_and_then_free(limiter: SyncLimiter) -> None:
    limiter.change_rules([Rule("jobs", "1/3s", "slots"), Rule("hits", "1/1h")])
    with limiter.slot("jobs", "ann") as slot:
        begun = time.monotonic()
        while time.monotonic() < begun + 5:  # longer than it is held without being renewed
            with (
                pytest.raises(NoSlotError, match="no slot of rule 'jobs' is free"),
                limiter.slot("jobs", "ann"),
            ):
                pass
            time.sleep(0.05)
        assert not slot.lost
        with limiter.slot("jobs", "bob"):
            assert limiter.hit("hits", "ann").allowed
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the body"), soon_free(limiter):
            raise RuntimeError("the body")
    with pytest.raises(ValueError, match="rule 'hits' counts"), limiter.slot("hits", "ann"):
        pass


@contextmanager
def soon_free(limiter: SyncLimiter) -> Iterator[None]:
    """Hold the slot as soon as it is free: nobody waits until one has been given back."""
    begun = time.monotonic()
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(limiter.slot("jobs", "ann"))
                break
            except NoSlotError:
                assert time.monotonic() < begun + DEADLINE_S
        yield


def test_a_slot_is_no_more_than_left_where_the_limiter_is_closed(limiter: SyncLimiter) -> None:
    limiter.change_rules([Rule("jobs", "1/1m", "slots")])
    with limiter.slot("jobs", "ann"):
        limiter.close()


def test_after_close_every_call_says_so(limiter: SyncLimiter) -> None:
    limiter.hit("login", "ann")
    limiter.close()
    limiter.close()
    with pytest.raises(RuntimeError, match="this SyncLimiter is closed"):
        limiter.hit("login", "ann")
    with pytest.raises(RuntimeError, match="this SyncLimiter is closed"):
        limiter.peek("login", "ann")


def test_it_may_be_used_in_a_thread_that_runs_an_event_loop(limiter: SyncLimiter) -> None:
    async def handler() -> Decision:
        return limiter.hit("login", "ann")

    assert asyncio.run(handler()).remaining == 4
    assert asyncio.run(handler()).remaining == 3


def test_a_callback_that_would_wait_for_its_own_thread_is_told_so(empty_server: RedisServer) -> None:
    told: list[str] = []
    held: list[SyncLimiter] = []

    def on_decision(decision: Decision) -> None:
        try:
            held[-1].peek("login", "ann")
        except RuntimeError as exc:
            told.append(str(exc))

    options: dict[str, Any] = {"redis": empty_server.url, "deadline_ms": 20_000}
    with SyncLimiter(RULES, on_decision=on_decision, **options) as limiter:
        held.append(limiter)
        assert limiter.hit("login", "ann").allowed
    assert told == ["a SyncLimiter cannot wait in the thread that has to answer it"]


def test_a_frozen_store_is_given_up(server: RedisServer) -> None:
    with SyncLimiter(RULES, redis=server.url, on_error="closed", deadline_ms=300) as limiter:
        assert limiter.hit("login", "ann").source in {"redis", "closed"}
        server.freeze()
        assert limiter.hit("login", "ann").source == "closed"
        server.kill()


FORK = """
import os, sys
from presence_server.throttle import Rule, SyncLimiter

before, url = sys.argv[1] == "before", sys.argv[2]
limiter = SyncLimiter([Rule("r", "100/1h")], redis=url, deadline_ms=20_000)
limiter._limiter.deny(key="foe")
if before:
    print(limiter.hit("r", "k").remaining, flush=True)
for _ in range(2):
    child = os.fork()
    if not child:
        print(limiter.hit("r", "k").remaining, limiter.hit("r", "foe").source, flush=True)
        limiter.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print(limiter.hit("r", "k").remaining, flush=True)
"""


@pytest.mark.parametrize(
    ("before", "shared", "lines"),
    [
        ("before", True, ["99", "98 deny_list", "97 deny_list", "96"]),
        ("not before", True, ["99 deny_list", "98 deny_list", "97"]),
        ("before", False, ["99", "98 deny_list", "98 deny_list", "98"]),
        ("not before", False, ["99 deny_list", "99 deny_list", "99"]),
    ],
)
def test_a_process_that_was_forked_goes_on_and_so_does_its_parent(
    empty_server: RedisServer, before: str, shared: bool, lines: list[str]
) -> None:
    done = run(FORK, before, empty_server.url if shared else "")
    assert done.stdout.splitlines() == lines, done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shared", [True, False])
def test_a_process_that_closes_nothing_ends_in_peace(empty_server: RedisServer, shared: bool) -> None:
    code = """
import sys
from presence_server.throttle import Rule, SyncLimiter

limiter = SyncLimiter([Rule("r", "5/1h")], redis=sys.argv[1], deadline_ms=20_000)
print(limiter.hit("r", "k").remaining)
"""
    done = run(code, empty_server.url if shared else "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_one_that_nobody_holds_ends_its_thread(empty_server: RedisServer) -> None:
    limiter = SyncLimiter(RULES, redis=empty_server.url, deadline_ms=20_000)
    limiter.hit("login", "ann")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "presence-throttle"]
    del limiter
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
