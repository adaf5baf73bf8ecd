"""Signals: SIGTERM and SIGINT drain, a second one stops at once, SIGSTOP is slept through."""

import signal
import time
from pathlib import Path

import anyio
import pytest

from presence_server.edge.listener import RECONNECT_MS
from tests.support.api import call
from tests.support.node import Node
from tests.support.rawclient import PING, PONG, EndedError, RawClient, frame, speaking
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

DEADLINE_S = 20


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_node_ends_at_once_with_0(tmp_path: Path, number: signal.Signals) -> None:
    node = Node(tmp_path)
    await node.start()
    node.signal(number)
    assert await node.wait() == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_tells_everybody_when_to_come_back(tmp_path: Path, number: signal.Signals) -> None:
    async with Node(tmp_path) as node, speaking(node.port) as alice, speaking(node.port) as bob:
        await alice.request(t="join", room="lobby", id=1)
        await bob.request(t="join", room="lobby", id=1)
        await alice.until("diff")
        node.signal(number)
        for client in (alice, bob):
            ending = await client.ending()
            assert ending.code == 4200
            assert ending.bye is not None
            assert ending.bye["reconnect_ms"] >= 0
            assert [message["t"] for message in ending.messages] == ["bye"], "nobody is seen to leave"
        assert await node.wait() == 0


async def test_newcomers_get_503_while_the_last_ones_go(tmp_path: Path) -> None:
    async with Node(tmp_path) as node, speaking(node.port) as stays, speaking(node.port) as goes:
        await stays.request(t="join", room="lobby", id=1)
        node.terminate()
        assert (await goes.ending()).code == 4200
        async with RawClient(node.port) as newcomer:
            response = await newcomer.ask()
            assert response.problem["status"] == 503
            assert int(response.headers["retry-after"]) >= 1
        async with RawClient(node.port) as checker:
            assert (await checker.ask("/healthz", base={})).status == 200
        assert (await stays.ending()).code == 4200
        assert await node.wait() == 0


async def test_a_node_that_is_not_ready_any_more_serves_everybody_for_drain_delay_ms(tmp_path: Path) -> None:
    args = ("--server.drain_delay_ms", "60000", "--server.drain_ms", "60000")
    async with Node(tmp_path, *args) as node, speaking(node.port) as stays:
        await stays.request(t="join", room="lobby", id=1)
        assert (await call(node, "GET", "/readyz")).status == 200
        node.terminate()
        answer = await eventually(lambda: call(node, "GET", "/readyz"), lambda answer: answer.status == 503)
        assert answer.body["checks"]["draining"] == "this node is shutting down"
        assert (await call(node, "GET", "/healthz")).status == 200
        async with speaking(node.port) as newcomer:
            await newcomer.request(t="join", room="lobby", id=1)
            assert [message["t"] for message in await stays.until("diff")] == ["diff"]
        begun = time.monotonic()
        node.terminate()
        await node.wait()
        assert time.monotonic() - begun < 30, "a second signal stops at once, in the delay too"


async def test_the_drain_begins_when_drain_delay_ms_is_over(tmp_path: Path) -> None:
    async with Node(tmp_path, "--server.drain_delay_ms", "700") as node, speaking(node.port) as client:
        begun = time.monotonic()
        node.terminate()
        assert (await client.ending()).code == 4200
        assert time.monotonic() - begun >= 0.7
        assert await node.wait() == 0


async def test_a_client_that_does_not_go_is_dropped_after_drain_ms(tmp_path: Path) -> None:
    async with Node(tmp_path, "--server.drain_ms", "500") as node, speaking(node.port) as stubborn:
        begun = time.monotonic()
        node.terminate()
        assert await node.wait() == 0
        assert 0.4 < time.monotonic() - begun < 20  # the default is 30
        assert (await stubborn.ending()).code == 4200


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(tmp_path: Path, second: signal.Signals) -> None:
    async with Node(tmp_path, "--server.drain_ms", "60000") as node, speaking(node.port) as stubborn:
        node.terminate()
        await stubborn.until("bye")
        begun = time.monotonic()
        node.signal(second)
        await node.wait()
        assert time.monotonic() - begun < 30


async def test_many_are_drained_in_turns(tmp_path: Path) -> None:
    many = 60
    async with Node(tmp_path, "--throttle.connect", "", "--throttle.concurrent_per_ip", "0") as node:
        endings = []

        async def stay(opened: anyio.Event) -> None:
            async with speaking(node.port) as client:
                opened.set()
                endings.append(await client.ending())

        async with anyio.create_task_group() as tasks:
            for _ in range(many):
                opened = anyio.Event()
                tasks.start_soon(stay, opened)
                await opened.wait()
            node.terminate()
        assert await node.wait() == 0
    byes = [ending.bye for ending in endings if ending.bye is not None]
    assert len(byes) == many
    assert len({bye["reconnect_ms"] for bye in byes}) > 1
    assert max(bye["reconnect_ms"] for bye in byes) <= RECONNECT_MS, (
        "being told in turns spreads them already"
    )


async def test_half_a_handshake_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    async with Node(tmp_path, "--limits.handshake_ms", "500") as node, RawClient(node.port) as half:
        await half.send(b"GET /ws")
        async with speaking(node.port):
            pass
        node.terminate()
        with pytest.raises(EndedError):
            await half.receive()
        assert await node.wait() == 0


async def test_a_killed_node_takes_its_port_again(tmp_path: Path) -> None:
    async with Node(tmp_path) as node, speaking(node.port) as client:
        before = node.port
        node.kill()
        assert await node.wait() == -signal.SIGKILL
        await node.start()
        assert node.port == before
        with pytest.raises(EndedError):
            await client.hear()


async def test_a_node_that_was_frozen_longer_than_every_timeout_drops_nobody(tmp_path: Path) -> None:
    args: tuple[str, ...] = ("--presence.ping_ms", "300", "--presence.ping_timeout_ms", "4000")
    args += ("--presence.grace_lost_ms", "300", "--presence.grace_clean_ms", "300")
    args += ("--presence.heartbeat_ms", "300", "--presence.ttl_ms", "900")
    async with (
        Node(tmp_path, *args) as node,
        speaking(node.port, "/ws?user=alice") as alice,
        speaking(node.port, "/ws?user=bob") as bob,
    ):
        await alice.request(t="join", room="lobby", id=1)
        await bob.request(t="join", room="lobby", id=1)
        async with anyio.create_task_group() as tasks:
            kinds: list[str] = []
            tasks.start_soon(answer_pings, alice, kinds)
            tasks.start_soon(answer_pings, bob, [])
            for _ in range(2):
                node.freeze()
                await anyio.sleep(5)  # longer than any of the settings: this is what is tested
                node.thaw()
                before = kinds.count("ping")
                with anyio.fail_after(DEADLINE_S):
                    while kinds.count("ping") < before + 3:  # noqa: ASYNC110 - there is no event to wait for
                        await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert set(kinds) <= {"ping", "diff of joins"}
        await alice.say(t="members", room="lobby", id=2)
        (page,) = [message for message in await alice.until("page") if message["t"] == "page"]
        assert {member["user"] for member in page["members"]} == {"alice", "bob"}


async def answer_pings(client: RawClient, kinds: list[str]) -> None:
    """Note what comes, and answer pings as a client does."""
    while True:
        received = await client.frame()
        if received.opcode == PING:
            kinds.append("ping")
            await client.send(frame(PONG, received.payload))
        else:
            joins = (
                received.opcode == 1
                and b'"joins"' in received.payload
                and b'"leaves"' not in received.payload
            )
            kinds.append("diff of joins" if joins else repr(received))
