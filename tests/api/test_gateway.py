"""What gateways ask, and what operators watch, over HTTP."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Answer, call
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

CONFIG = """
[throttle]
decision_log = 1000
[[throttle.rules]]
name = "login"
limit = "3/60s"
[[throttle.rules]]
name = "edge.remote_address"
limit = "5/3600s"
[[throttle.rules]]
name = "path.user"
limit = "100/7s"
"""


@pytest.fixture(params=["memory", "redis"])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Node]]:
    """One node on its own, or two that share a store."""
    config = tmp_path / "rules.toml"
    config.write_text(CONFIG)
    async with AsyncExitStack() as stack:
        args = ["--config", str(config), "--presence.heartbeat_ms", "500", "--presence.ttl_ms", "3000"]
        if request.param == "redis":
            args += ["--redis.url", stack.enter_context(RedisServer("redis")).url]
        count = 2 if request.param == "redis" else 1
        yield [await stack.enter_async_context(Node(tmp_path, *args)) for _ in range(count)]


async def check(node: Node, *descriptors: dict[str, Any], **more: Any) -> Answer:
    return await call(node, "POST", "/v1/throttle/check", {"descriptors": [*descriptors], **more})


async def remaining(node: Node, rule: str, key: str) -> int:
    answer = await call(node, "POST", "/v1/throttle/peek", {"rule": rule, "key": key})
    left: int = answer.body["remaining"]
    return left


def entries(**values: str) -> dict[str, Any]:
    return {"entries": [{"key": key, "value": value} for key, value in values.items()]}


async def test_a_gateway_charges_all_descriptors_or_none(nodes: list[Node]) -> None:
    node, other = nodes[0], nodes[-1]
    asked = (entries(remote_address="203.0.113.7"), {"rule": "login", "key": "ada", "cost": 2})
    answer = await check(node, *asked, domain="edge")
    assert answer.status == 200
    first, second = answer.body["statuses"]
    assert answer.body["overallCode"] == first["code"] == second["code"] == "OK"
    limit = {"name": "edge.remote_address", "requestsPerUnit": 5, "unit": "HOUR"}
    assert (first["currentLimit"], first["limitRemaining"]) == (limit, 4)
    assert (second["currentLimit"]["unit"], second["limitRemaining"]) == ("MINUTE", 1)
    assert 0 < float(first["durationUntilReset"].removesuffix("s")) <= 3_600
    refused = await check(other, *asked, domain="edge")
    first, second = refused.body["statuses"]
    assert (refused.status, refused.body["overallCode"], first["code"], second["code"]) == (
        *(429, "OVER_LIMIT"),
        *("OK", "OVER_LIMIT"),
    )
    assert first["limitRemaining"] == 4
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert await remaining(node, "edge.remote_address", "203.0.113.7") == 4
    assert await remaining(node, "login", "ada") == 1


async def test_what_no_rule_is_for_is_let_through_and_entries_make_one_key(nodes: list[Node]) -> None:
    node = nodes[0]
    answer = await check(node, entries(generic_key="slow"), entries(path="/a", user="ada"), hits_addend=7)
    assert answer.body["statuses"][0] == {"code": "OK"}
    assert answer.body["statuses"][1]["currentLimit"] == {
        "name": "path.user",
        "requestsPerUnit": 100,
        "unit": "UNKNOWN",
    }
    assert await remaining(node, "path.user", "/a|ada") == 93
    await check(node, entries(path="a|b", user="c"))
    assert (await check(node, entries(path="a", user="b|c"))).body["statuses"][0]["limitRemaining"] == 99


async def test_a_cost_that_can_never_be_admitted_charges_nothing(nodes: list[Node]) -> None:
    answer = await check(
        nodes[0], {"rule": "login", "key": "ada", "cost": 4}, {"rule": "path.user", "key": "x"}
    )
    assert [status["code"] for status in answer.body["statuses"]] == ["OVER_LIMIT", "OK"]
    assert answer.status == 429
    assert await remaining(nodes[0], "path.user", "x") == 100


@pytest.mark.parametrize(
    ("descriptor", "status"),
    [
        ({}, 422),
        ({"rule": "login", "key": "a", "entries": [{"key": "x"}]}, 422),
        ({"rule": "nothing", "key": "a"}, 404),
        ({"rule": "login"}, 422),
        ({"entries": [{"key": "remote_address"}]}, 200),
        ({"entries": [{"key": "login"}]}, 422),
        ({"entries": [{"key": "x", "limit": {}}]}, 400),
    ],
)
async def test_a_descriptor_that_can_be_none_says_so(
    node: Node, descriptor: dict[str, Any], status: int
) -> None:
    assert (await check(node, descriptor)).status == status


async def test_a_proxy_is_answered_with_a_status(nodes: list[Node]) -> None:
    for n, (refusal, status) in enumerate((("", 429), ("&refusal=403", 403))):
        path, key = f"/v1/throttle/auth?rule=login&cost=2{refusal}", {"X-Throttle-Key": f"k{n}"}
        let = await call(nodes[0], "GET", path, headers=key)
        assert (let.status, let.body) == (204, b"")
        assert "r=1;" in let.headers["RateLimit"]
        refused = await call(nodes[0], "GET", path, headers=key)
        assert (refused.status, refused.body["type"]) == (status, "urn:presence-server:throttled")
        assert int(refused.headers["Retry-After"]) >= 1
    assert (await call(nodes[0], "GET", "/v1/throttle/auth?rule=login")).status == 400
    assert (
        await call(nodes[0], "GET", "/v1/throttle/auth?rule=no", headers={"X-Throttle-Key": "k"})
    ).status == 404


async def test_who_is_hit_and_refused_most_is_told_of_one_node_or_of_all(nodes: list[Node]) -> None:
    for n in range(5):
        for node in nodes:
            await call(node, "POST", "/v1/throttle/hit", {"rule": "login", "key": "eve"})
            await call(node, "POST", "/v1/throttle/hit", {"rule": "path.user", "key": f"u{n}"})

    async def top(query: str) -> Any:
        return (await call(nodes[0], "GET", f"/v1/throttle/top?{query}")).body

    own = await top("rule=login&by=hits")
    assert own["top"] == [{"rule": "login", "key": "eve", "count": 5, "error": 0}]
    assert (own["nodes"], own["floor"]) == (1, 0)
    hits = 5 * len(nodes)
    everywhere = await eventually(
        lambda: top("scope=all&limit=1"), lambda found: found["top"][0]["count"] == hits
    )
    assert (everywhere["nodes"], everywhere["top"][0]["key"], everywhere["floor"]) == (
        len(nodes),
        "eve",
        len(nodes),
    )
    refused = await eventually(
        lambda: top("scope=all&by=refused"), lambda found: found["nodes"] == len(nodes)
    )
    assert refused["top"] == [{"rule": "login", "key": "eve", "count": hits - 3, "error": 0}]


async def test_a_proposed_rule_is_played_over_what_was_decided_here(nodes: list[Node]) -> None:
    node = nodes[0]
    for n in range(8):
        await call(
            node, "POST", "/v1/throttle/hit", {"rule": "path.user", "key": "eve" if n % 2 else f"u{n}"}
        )
    body = {"rule": "path.user", "limit": "2/600s", "algorithm": "sliding"}
    played = (await call(node, "POST", "/v1/throttle/dryrun", body)).body
    assert (played["logged"], played["played"], played["refused"], played["was_refused"]) == (8, 8, 2, 0)
    assert (played["keys"], played["keys_refused"]) == (5, 1)
    assert played["top"] == [{"key": "eve", "hits": 4, "refused": 2, "was_refused": 0}]
    page = (await call(node, "GET", "/metrics")).body.decode()
    assert "presence_throttle_logged_decisions 8.0" in page
    wrong = await call(node, "POST", "/v1/throttle/dryrun", body | {"limit": "2 a day"})
    assert (wrong.status, "limit '2 a day'" in wrong.body["detail"]) == (422, True)


async def test_without_a_log_there_is_no_dry_run(node: Node) -> None:
    answer = await call(node, "POST", "/v1/throttle/dryrun", {"rule": "login", "limit": "2/600s"})
    assert (answer.status, answer.body["type"]) == (409, "urn:presence-server:no_log")
