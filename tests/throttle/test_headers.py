"""The header fields, read by a strict parser of RFC 9651 that somebody else wrote."""

from typing import Any

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.headers import QUOTA_EXCEEDED, REDUCED_CAPACITY, fields, problem
from presence_server.throttle.slots import NoSlotError
from tests.support.properties import examples

pytestmark = pytest.mark.anyio
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)
COUNTS = st.integers(1, 1_000_000_000)
WINDOWS = st.integers(1, 400_000)


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """Return a list's items with their parameters; the items are Strings, and none is there twice."""
    found: Any = http_sf.parse(text.encode("ascii"), tltype="list")
    assert all(type(item) is str for item, _ in found)
    items = {item: dict(parameters) for item, parameters in found}
    assert len(items) == len(found)
    return items


def policies(decision: Decision) -> dict[str, dict[str, Any]]:
    return parsed(decision.headers()["RateLimit-Policy"])


@pytest.mark.parametrize(
    ("limit", "algorithm", "said"),
    [
        ("60/60s", "fixed", {"q": 60, "w": 60}),
        ("60/1h", "sliding", {"q": 60, "w": 3600}),
        ("60/1m", "counter", {"q": 60, "w": 60}),
        ("100/1s", "bucket", {"q": 100, "w": 1}),
        ("100/1s burst 200", "bucket", {"q": 200, "w": 2}),
        ("100/60s burst 10", "bucket", {"q": 10, "w": 6}),
        ("3/1s burst 9", "bucket", {"q": 9, "w": 3}),
        ("100/1s burst 150", "bucket", {"q": 150}),
        ("5/100ms", "fixed", {"q": 5}),
        ("5/1500ms", "sliding", {"q": 5}),
        ("5/2000ms", "fixed", {"q": 5, "w": 2}),
        ("5/minute", "fixed", {"q": 5, "w": 60}),
        ("1k/day", "fixed", {"q": 1_000, "w": 86_400}),
        ("1k/week", "fixed", {"q": 1_000, "w": 604_800}),
        ("1M/month", "fixed", {"q": 1_000_000}),
        ("1M/year", "fixed", {"q": 1_000_000}),
    ],
)
async def test_a_policy_says_how_much_at_once_and_in_what_whole_seconds_or_leaves_them_out(
    limit: str, algorithm: Any, said: dict[str, int]
) -> None:
    async with Limiter([Rule("r", limit, algorithm)]) as limiter:
        assert policies(await limiter.hit("r", "k")) == {"r": said}


async def test_a_day_of_a_zone_whose_clocks_change_has_no_length() -> None:
    async with Limiter([Rule("r", "9/day", tz="Europe/Berlin")]) as limiter:
        decision = await limiter.hit("r", "k")
        assert policies(decision) == {"r": {"q": 9}}
        current = parsed(decision.headers()["RateLimit"])["r"]
        assert current["r"] == 8
        assert 0 < current["t"] <= 25 * 3_600


async def test_a_rule_of_slots_has_another_unit_and_no_window() -> None:
    async with Limiter([Rule("jobs", "2/1m", "slots")]) as limiter:
        async with limiter.slot("jobs", "k") as slot, limiter.slot("jobs", "k"):
            assert slot.decision is not None
            assert policies(slot.decision) == {"jobs": {"q": 2, "qu": "concurrent-requests"}}
            assert parsed(slot.decision.headers()["RateLimit"]) == {"jobs": {"r": 1}}
            with pytest.raises(NoSlotError) as refused:
                await limiter.slot("jobs", "k").__aenter__()
        told = refused.value.headers()
        assert parsed(told["RateLimit"])["jobs"]["t"] <= int(told["Retry-After"]) <= 60


@examples(200)
@given(
    st.lists(st.tuples(NAMES, COUNTS, WINDOWS), min_size=1, max_size=4, unique_by=lambda rule: rule[0]),
    st.integers(1, 3),
)
async def test_every_decision_is_two_lists_that_name_every_rule(
    limits: list[tuple[str, int, int]], hits: int
) -> None:
    rules = [Rule(name, f"{count}/{ms}ms") for name, count, ms in limits]
    async with Limiter(rules) as limiter:
        for _ in range(hits):
            decision = await limiter.hit([rule.name for rule in rules], "k")
            told = decision.headers()
            current = parsed(told["RateLimit"])
            assert set(current) == set(policies(decision)) == {rule.name for rule in rules}
            for rule in rules:
                assert policies(decision)[rule.name]["q"] == rule.count
                assert 0 <= current[rule.name]["r"] <= rule.count
                assert "t" not in current[rule.name] or current[rule.name]["t"] * 1_000 >= 1
            assert ("Retry-After" in told) is not decision.allowed
            ends = [item["t"] for item in current.values() if "t" in item]
            assert decision.allowed or int(told["Retry-After"]) >= max([1, *ends])


@pytest.mark.parametrize("algorithm", ["fixed", "sliding", "counter", "bucket"])
async def test_no_effective_window_of_a_refusal_ends_after_retry_after(algorithm: Any) -> None:
    rules = [Rule("second", "1/1s", algorithm), Rule("day", "1000/24h", algorithm)]
    async with Limiter(rules) as limiter:
        await limiter.hit(["second", "day"], "k")
        refused = await limiter.hit(["second", "day"], "k")
        assert not refused.allowed
        told = refused.headers()
        current = parsed(told["RateLimit"])
        assert current["second"]["t"] <= int(told["Retry-After"]) <= 2
        assert current["day"] == {"r": 999}


async def test_a_refusal_after_which_to_wait_longest_counts() -> None:
    rules = [Rule("minute", "1/1m"), Rule("hour", "1/1h")]
    async with Limiter(rules) as limiter:
        await limiter.hit(["minute", "hour"], "k")
        decisions = [await limiter.hit(name, "k") for name in ("minute", "hour")]
        told = fields(decisions)
        assert 3_590 <= int(told["Retry-After"]) <= 3_600
        assert {"minute", "hour"} == set(parsed(told["RateLimit"]))


@pytest.mark.parametrize("names", [["minute", "hour"], ["hour", "minute"]])
async def test_of_two_rules_that_refuse_the_longer_is_waited_for(names: list[str]) -> None:
    async with Limiter([Rule("minute", "1/1m"), Rule("hour", "1/1h")]) as limiter:
        await limiter.hit(names, "k")
        refused = await limiter.hit(names, "k")
        assert refused.rule == "hour"
        told = refused.headers()
        assert 3_590 <= int(told["Retry-After"]) <= 3_600
        assert parsed(told["RateLimit"])["hour"]["t"] <= int(told["Retry-After"])


async def test_a_rule_in_shadow_mode_is_not_told_of() -> None:
    rules = [Rule("tried", "1/1m", shadow=True), Rule("real", "5/1m")]
    async with Limiter(rules) as limiter:
        for _ in range(2):
            decision = await limiter.hit(["tried", "real"], "k")
        assert decision.would_deny
        assert set(policies(decision)) == set(parsed(decision.headers()["RateLimit"])) == {"real"}
        assert (await limiter.hit("tried", "k")).headers() == {}


@pytest.mark.parametrize("on_error", ["open", "closed"])
async def test_what_nobody_has_counted_is_not_said_to_remain(on_error: Any) -> None:
    async with Limiter([Rule("r", "5/1m")], redis="redis://127.0.0.1:1", on_error=on_error) as limiter:
        decision = await limiter.hit("r", "k")
        assert decision.source == on_error
        told = decision.headers()
        assert "RateLimit" not in told
        assert parsed(told["RateLimit-Policy"]) == {"r": {"q": 5, "w": 60}}
        assert ("Retry-After" in told) is (on_error == "closed")
        if not decision.allowed:
            assert problem(decision)["type"] == REDUCED_CAPACITY


async def test_of_a_key_on_a_list_no_quota_is_told() -> None:
    async with Limiter([Rule("r", "5/1m")]) as limiter:
        limiter.allow(key="friend")
        limiter.deny(key="foe", ttl=60)
        assert (await limiter.hit("r", "friend")).headers() == {}
        refused = await limiter.hit("r", "foe")
        told = refused.headers()
        assert "RateLimit" not in told
        assert 59 <= int(told["Retry-After"]) <= 60
        assert problem(refused)["type"] == "about:blank"


async def test_the_problem_of_a_refusal_names_the_policies_that_were_exceeded() -> None:
    rules = [Rule("a", "1/1m"), Rule("b", "9/1m"), Rule("c", "1/1m"), Rule("d", "1/1m", shadow=True)]
    async with Limiter(rules) as limiter:
        names = [rule.name for rule in rules]
        await limiter.hit(names, "k")
        said = problem(await limiter.hit(names, "k"))
    assert said["type"] == QUOTA_EXCEEDED == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert said["violated-policies"] == ["a", "c"]
    assert said["status"] == 429
    assert said["title"] == "Quota Exceeded"


def test_a_decision_made_by_hand_tells_of_itself() -> None:
    refused = Decision(False, 60, 0, 0.2, 11.2, 'say "hi"\\', "redis", 60.0)
    told = refused.headers()
    assert parsed(told["RateLimit"]) == {'say "hi"\\': {"r": 0, "t": 1}}
    assert parsed(told["RateLimit-Policy"]) == {'say "hi"\\': {"q": 60, "w": 60}}
    assert told["Retry-After"] == "1"
