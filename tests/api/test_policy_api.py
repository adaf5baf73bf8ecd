"""Rules and lists that are changed while nodes run, over HTTP and over several nodes."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus

from tests.api.conftest import RULES
from tests.support.api import Answer, call
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

FAST = ("--presence.heartbeat_ms", "500", "--presence.ttl_ms", "3000")


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Node]]:
    """Three nodes that share a store."""
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    with RedisServer("redis") as server:
        async with AsyncExitStack() as stack:
            patient = ("--throttle.deadline_ms", "5000")  # else a busy machine has each node count alone
            args = ("--config", str(config), "--redis.url", server.url, *FAST, *patient)
            yield [await stack.enter_async_context(Node(tmp_path, *args)) for _ in range(3)]
        assert server.keys_without_ttl() == []


async def hit(node: Node, key: str, rule: str = "login") -> Answer:
    return await call(node, "POST", "/v1/throttle/hit", {"rule": rule, "key": key})


async def versions(node: Node) -> list[int]:
    return [each["policy"] for each in (await call(node, "GET", "/v1/nodes")).body["nodes"]]


async def test_a_change_on_one_node_is_in_force_on_all_and_each_says_so(nodes: list[Node]) -> None:
    one, other, third = nodes
    assert (await call(one, "GET", "/v1/throttle/policy")).headers["ETag"] == '"0"'
    answer = await call(one, "PUT", "/v1/throttle/rules/search", {"limit": "2/600s", "algorithm": "sliding"})
    assert (answer.status, answer.body, answer.headers["ETag"]) == (200, {"version": 1}, '"1"')
    answer = await call(other, "POST", "/v1/throttle/deny", {"network": "203.0.113.0/24", "ttl_ms": 600_000})
    assert answer.body == {"version": 2}
    await eventually(lambda: versions(one), lambda found: found == [2, 2, 2])
    for node in nodes:
        refused = await hit(node, "203.0.113.7", "search")
        assert (refused.status, refused.body["source"]) == (429, "deny_list")
        assert 590 <= int(refused.headers["Retry-After"]) <= 600
    assert [(await hit(node, "ada", "search")).status for node in nodes] == [200, 200, 429]
    page = (await call(third, "GET", "/metrics")).body.decode()
    assert "presence_throttle_policy_version 2.0" in page
    assert "presence_throttle_list_entries 1.0" in page
    assert "presence_throttle_nodes_known" in page
    # A rule of the settings is replaced, and holds again once the policy has none of its name.
    await call(one, "PUT", "/v1/throttle/rules/login", {"limit": "9/600s"})
    await eventually(lambda: versions(other), lambda found: found == [3, 3, 3])
    assert (await hit(other, "bob")).body["limit"] == 9
    third.signal(signal.SIGHUP)
    rules = (await call(third, "GET", "/v1/throttle/rules")).body
    assert {rule["name"]: (rule["limit"], rule["origin"]) for rule in rules["rules"]} == {
        "login": ("9/600s", "policy"),
        "search": ("2/600s", "policy"),
    }
    await call(third, "DELETE", "/v1/throttle/rules/login")
    await eventually(lambda: versions(one), lambda found: found == [4, 4, 4])
    assert (await hit(one, "carol")).body["limit"] == 3


async def test_a_node_that_begins_goes_by_the_policy_from_its_first_answer(
    nodes: list[Node], tmp_path: Path
) -> None:
    await call(nodes[0], "POST", "/v1/throttle/deny", {"key": "eve", "rule": "login"})
    await nodes[1].stop()
    await nodes[1].start()
    assert (await hit(nodes[1], "eve")).body["source"] == "deny_list"


async def test_sighup_loses_nothing_of_the_policy(tmp_path: Path) -> None:
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    async with Node(tmp_path, "--config", str(config)) as node:
        await call(node, "PUT", "/v1/throttle/rules/login", {"limit": "9/600s"})
        await call(node, "POST", "/v1/throttle/deny", {"key": "eve"})
        config.write_text(RULES + '[[throttle.rules]]\nname = "more"\nlimit = "1/1s"\n')
        node.signal(signal.SIGHUP)

        async def names() -> dict[str, str]:
            rules = (await call(node, "GET", "/v1/throttle/rules")).body["rules"]
            return {rule["name"]: rule["limit"] for rule in rules}

        found = await eventually(names, lambda found: "more" in found)
        assert found["login"] == "9/600s"
        assert (await hit(node, "eve")).body["source"] == "deny_list"


async def test_a_whole_policy_is_replaced_only_at_its_version(node: Node) -> None:
    first = await call(node, "GET", "/v1/throttle/policy")
    policy: dict[str, Any] = {
        "rules": [{"name": "mine", "limit": "1/1s"}],
        "deny": [{"key": "eve", "note": "asked to"}],
    }
    etag = {"If-Match": first.headers["ETag"]}
    changed = await call(node, "PUT", "/v1/throttle/policy", policy, headers=etag)
    assert changed.status == 200
    again = await call(node, "PUT", "/v1/throttle/policy", {}, headers=etag)
    assert (again.status, again.body["version"]) == (412, changed.body["version"])
    assert (await call(node, "PUT", "/v1/throttle/policy", policy)).status == 428
    read = (await call(node, "GET", "/v1/throttle/policy")).body
    assert (read["rules"], read["deny"], read["problem"]) == (policy["rules"], policy["deny"], "")


@pytest.mark.parametrize(
    ("asked", "body", "status", "detail"),
    [
        ("PUT rules/login", {"limit": "5 a day"}, 422, "rule 'login': limit '5 a day'"),
        ("PUT rules/messages", {"limit": "5/1s"}, 422, "only the settings have"),
        ("PUT rules/a b", {"limit": "5/1s"}, 400, "rule in the path"),
        ("PUT rules/x", {"limit": "20000/60s", "algorithm": "sliding"}, 422, "a sliding log counts to"),
        ("DELETE rules/nothing", None, 404, "the policy has no rule 'nothing'"),
        ("POST deny", {}, 422, "an entry is for a key or for a network"),
        ("POST allow", {"key": "a", "network": "10.0.0.1"}, 422, "an entry is for a key or for a network"),
        ("POST deny", {"network": "10.0.0.0/40"}, 422, "'10.0.0.0/40' is no IP address"),
        ("POST deny", {"key": "a", "ttl_ms": -1}, 400, "ttl_ms"),
        ("POST unlist", {"key": "nobody"}, 404, "neither list has such an entry"),
        ("POST hit", {"key": "a", "rule": "login", "cost": 40}, 422, "rule 'login' admits a cost from 1 to"),
        ("POST hit", {"key": "a"}, 422, "give rule or rules"),
        ("POST hit", {"key": "a", "rule": "login", "rules": ["login"]}, 422, "give rule or rules"),
        ("POST hit", {"key": "a", "rules": []}, 400, "rules"),
        ("POST hit", {"key": "a", "rules": ["login", "nothing"]}, 404, "no rule 'nothing'"),
    ],
)
async def test_what_cannot_be_done_says_what_and_where(
    node: Node, asked: str, body: Any, status: int, detail: str
) -> None:
    method, _, path = asked.partition(" ")
    answer = await call(node, method, f"/v1/throttle/{path.replace(' ', '%20')}", body)
    assert answer.status == status
    assert detail in answer.body["detail"]


async def test_a_hit_of_several_rules_is_charged_to_all_or_none_and_can_be_given_back(node: Node) -> None:
    await call(node, "PUT", "/v1/throttle/rules/wide", {"limit": "100/600s"})
    body = {"rules": ["login", "wide"], "key": "dora"}
    for remaining in (2, 1, 0):
        answer = await call(node, "POST", "/v1/throttle/hit", body)
        assert (answer.status, answer.body["rule"], answer.body["remaining"]) == (200, "login", remaining)
    refused = await call(node, "POST", "/v1/throttle/hit", body)
    assert (refused.status, refused.body["rule"]) == (429, "login")
    wide = {"rule": "wide", "key": "dora"}
    assert (await call(node, "POST", "/v1/throttle/peek", wide)).body["remaining"] == 97
    given = await call(node, "POST", "/v1/throttle/refund", {"rule": "login", "key": "dora", "cost": 2})
    assert given.body["remaining"] == 2
    assert (await call(node, "POST", "/v1/throttle/hit", body)).status == 200


@pytest.mark.parametrize("connect", ["", "1/600s"], ids=["no-rule", "a-rule"])
async def test_a_listed_address_is_refused_or_let_in_at_the_door(tmp_path: Path, connect: str) -> None:
    args = ("--throttle.connect", connect, "--throttle.concurrent_per_ip", "1")
    async with Node(tmp_path, *args) as node, AsyncExitStack() as stack:
        await call(node, "POST", "/v1/throttle/allow", {"network": "127.0.0.0/8", "rule": "connect"})
        for _ in range(3):
            await stack.enter_async_context(websocket(node.ws_url))
        await call(node, "POST", "/v1/throttle/deny", {"key": "127.0.0.1", "ttl_ms": 600_000})
        with pytest.raises(InvalidStatus) as refused:
            await stack.enter_async_context(websocket(node.ws_url))
        assert refused.value.response.status_code == 429
        assert 590 <= int(refused.value.response.headers["Retry-After"]) <= 600


async def test_what_the_store_could_not_be_told_is_a_503_and_the_policy_in_force_stays(
    tmp_path: Path,
) -> None:
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    with RedisServer("redis") as server:
        async with Node(tmp_path, "--config", str(config), "--redis.url", server.url) as node:
            await call(node, "POST", "/v1/throttle/deny", {"key": "eve"})
            server.freeze()
            for path, more in (("reset", {}), ("block", {"ms": 1_000}), ("refund", {}), ("charge", {})):
                answer = await call(
                    node, "POST", f"/v1/throttle/{path}", {"rule": "login", "key": "ada"} | more
                )
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1"), path
            assert (await call(node, "POST", "/v1/throttle/deny", {"key": "bob"})).status == 503
            assert (await hit(node, "eve")).body["source"] == "deny_list"
            assert (await hit(node, "bob")).body["source"] == "open"
            server.thaw()


async def test_what_was_used_is_charged_afterwards(node: Node) -> None:
    body = {"rule": "login", "key": "frank", "cost": 5}
    assert (await call(node, "POST", "/v1/throttle/charge", body)).body["remaining"] == 0
    assert (await hit(node, "frank")).status == 429
