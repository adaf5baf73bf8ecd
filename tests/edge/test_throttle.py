"""Who comes too often is refused before the upgrade, so that it can be understood."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node
from tests.support.rawclient import EndedError, RawClient, Response, speaking
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a node with limits."""
    async with AsyncExitStack() as stack:

        async def start(*args: str) -> Node:
            return await stack.enter_async_context(Node(tmp_path, *args))

        yield start


async def attempt(node: Node, headers: dict[str, str | None] | None = None, first: bytes = b"") -> int:
    """Return the status of one handshake."""
    async with RawClient(node.port) as client:
        if first:
            await client.send(first)
        return (await client.ask("/ws?user=ann", headers)).status


async def attempts(node: Node, times: int, **options: Any) -> list[int]:
    return [await attempt(node, **options) for _ in range(times)]


async def test_the_answer_to_one_too_many_says_when_to_come_back(start: Start) -> None:
    node = await start("--throttle.connect", "2/60s")
    assert await attempts(node, 2) == [101, 101]
    async with RawClient(node.port) as client:
        refused: Response = await client.ask("/ws?user=ann")
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"connect";r=0;t=')
    assert refused.headers["ratelimit-policy"] == '"connect";q=2;w=60'
    assert refused.problem["status"] == 429
    assert refused.problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert refused.problem["violated-policies"] == ["connect"]
    assert int(refused.headers["ratelimit"].partition(";t=")[2]) <= int(refused.headers["retry-after"])
    assert "127.0.0.1" in refused.problem["detail"]


async def test_pages_and_the_health_check_are_not_counted(start: Start) -> None:
    node = await start("--throttle.connect", "1/60s")
    for _ in range(5):
        async with RawClient(node.port) as client:
            assert (await client.ask("/healthz")).status == 200
    assert await attempts(node, 2) == [101, 429]


async def test_a_browser_may_be_told_with_a_close_code(start: Start) -> None:
    node = await start("--throttle.connect", "1/60s", "--throttle.deny", "close")
    assert await attempts(node, 1) == [101]
    async with RawClient(node.port) as client:
        assert (await client.ask("/ws?user=ann")).status == 101
        bye = await client.hear()
        assert (bye["t"], bye["code"]) == ("bye", 4101)
        assert (await client.ending()).code == 4101


async def test_a_good_resume_token_is_counted_by_itself(start: Start) -> None:
    node = await start("--throttle.connect", "1/60s", "--throttle.resume", "2/60s")
    async with speaking(node.port, "/ws?user=ann") as client:
        token = client.welcome["resume"]
    for _ in range(2):
        async with speaking(node.port, f"/ws?user=ann&resume={token}") as again:
            assert again.welcome["resumed"]
            token = again.welcome["resume"]
    async with RawClient(node.port) as client:
        assert (await client.ask(f"/ws?user=ann&resume={token}")).status == 429
        assert (await attempts(node, 1)) == [429]


async def test_spoofed_headers_change_nothing(start: Start) -> None:
    node = await start("--throttle.connect", "3/60s")
    spoofs: list[dict[str, str | None]] = [
        {"X-Forwarded-For": f"6.6.6.{n}", "Forwarded": f"for=6.6.6.{n}", "X-Real-IP": f"6.6.6.{n}"}
        for n in range(6)
    ]
    assert [await attempt(node, spoof) for spoof in spoofs] == [101] * 3 + [429] * 3


async def test_behind_a_trusted_proxy_clients_are_counted_apart(start: Start) -> None:
    node = await start("--throttle.connect", "2/60s", "--proxy.trusted", "127.0.0.0/8")

    async def come(client: str) -> int:
        return await attempt(node, {"X-Forwarded-For": f"6.6.6.6, {client}"})

    assert [await come("1.2.3.4") for _ in range(3)] == [101, 101, 429]
    assert [await come("1.2.3.5") for _ in range(3)] == [101, 101, 429]
    assert [await come(f"2001:db8::{n}") for n in range(1, 4)] == [101, 101, 429]


async def test_a_proxy_may_speak_the_proxy_protocol(start: Start) -> None:
    node = await start(
        *("--throttle.connect", "1/60s", "--proxy.trusted", "127.0.0.1", "--proxy.protocol", "true")
    )

    def line(source: str) -> bytes:
        return f"PROXY TCP4 {source} 10.0.0.1 1234 80\r\n".encode()

    assert await attempt(node, first=line("1.2.3.4")) == 101
    assert await attempt(node, first=line("1.2.3.4")) == 429
    assert await attempt(node, first=line("1.2.3.5")) == 101
    with pytest.raises(EndedError):
        await attempt(node)


async def test_who_is_on_the_allow_list_is_never_refused(start: Start) -> None:
    node = await start(
        *("--throttle.connect", "1/60s", "--throttle.concurrent_per_ip", "1"),
        *("--throttle.allow", "127.0.0.0/8"),
    )
    assert await attempts(node, 5) == [101] * 5


async def test_in_shadow_nobody_is_refused(start: Start) -> None:
    node = await start(
        *("--throttle.connect", "1/60s", "--throttle.concurrent_per_ip", "1", "--throttle.shadow", "true")
    )
    async with speaking(node.port, "/ws?user=ann"):
        assert await attempts(node, 3) == [101] * 3


async def test_so_many_connections_at_a_time_and_no_more(start: Start) -> None:
    node = await start("--throttle.concurrent_per_ip", "2")
    async with speaking(node.port, "/ws?user=ann"), speaking(node.port, "/ws?user=bob") as bob:
        async with RawClient(node.port) as client:
            refused = await client.ask("/ws?user=cem")
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.problem["violated-policies"] == ["concurrent"]
        await bob.close()

        statuses: list[int] = []
        while 101 not in statuses and len(statuses) < 500:
            statuses.append(await attempt(node))
        assert statuses[-1] == 101


async def test_who_sends_too_fast_is_told_and_then_closed(start: Start) -> None:
    node = await start("--throttle.messages", "1/60s burst 3")
    async with speaking(node.port, "/ws?user=ann") as ann:
        await ann.request(t="join", room="lobby", id=1)
        for n in (2, 3):
            assert (await ann.request(t="publish", room="lobby", data=n, id=n))["t"] == "ok"
        refused = await ann.request(t="publish", room="lobby", data=4, id=4)
        assert (refused["t"], refused["code"], refused["id"]) == ("error", "throttled", 4)
        assert 50_000 < refused["retry_after_ms"] <= 60_000
        for n in range(30):
            await ann.say(t="publish", room="lobby", data=n)
        assert (await ann.ending()).code == 4008


async def test_a_users_updates_count_on_all_connections_and_the_order_of_messages_stays(start: Start) -> None:
    node = await start("--throttle.updates", "3/60s", "--throttle.publishes", "100/60s")
    async with speaking(node.port, "/ws?user=ann") as one, speaking(node.port, "/ws?user=ann") as other:
        for client in (one, other):
            await client.request(t="join", room="lobby", id=1)
        answers = [await one.request(t="update", room="lobby", state={"n": n}, id=n + 2) for n in range(2)]
        answers += [await other.request(t="update", room="lobby", state={"n": n}, id=n + 2) for n in range(2)]
        assert [answer["t"] for answer in answers] == ["ok", "ok", "ok", "error"]
        assert answers[-1]["code"] == "throttled"
        for n in range(50):
            await one.say(t="publish", room="lobby", data=n)
        heard = [
            message["data"] for message in await other.until("message", data=49) if message["t"] == "message"
        ]
        assert heard == list(range(50))


async def test_limits_are_read_again_on_sighup_all_or_none(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[throttle]\nconnect = "1/60s"\nresume = ""\nmessages = ""\nconcurrent_per_ip = 0\n')
    process = Node(tmp_path, "--config", str(config))
    process.unthrottled = False
    async with process as node:
        assert await attempts(node, 2) == [101, 429]
        config.write_text('[throttle]\nconnect = "nonsense"\nconcurrent_per_ip = 7\n')
        node.signal(signal.SIGHUP)
        await until(lambda: "nonsense" in node.log, lambda: node.log)
        assert await attempts(node, 1) == [429]
        config.write_text('[throttle]\nconnect = "4/60s"\nconcurrent_per_ip = 0\n')
        node.signal(signal.SIGHUP)
        await until(lambda: "read again" in node.log, lambda: node.log)
        assert await attempts(node, 4) == [101] * 3 + [429]
