"""Clients that do not read: what they cost, that nobody else notices, and what they find later."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import IO

import anyio
import pytest
from anyio import to_thread

from tests.edge.conftest import UNTHROTTLED
from tests.support.follower import apply
from tests.support.memory import rss_bytes
from tests.support.node import PROJECT, Node
from tests.support.rawclient import Fields, RawClient, speaking, text
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

KIB = 1_024
SOFT_BYTES = 16 * KIB
HARD_BYTES = 256 * KIB
RECEIVE_BYTES = 4 * KIB
GROWTH_MAX = 8 * 1_024 * KIB
ROUNDS = 300
"""What a request of a client that reads may take on a busy machine: less than it takes until who does not is closed."""


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (
        *UNTHROTTLED,
        "--limits.outbox_soft_bytes",
        str(SOFT_BYTES),
        "--limits.outbox_hard_bytes",
        str(HARD_BYTES),
    )
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


class Fold:
    """A roster made of what a client is told, as any client would."""

    def __init__(self) -> None:
        self.roster: Fields = {}
        self.messages: list[object] = []
        self.syncs = 0

    def take(self, message: Fields) -> None:
        if message["t"] == "sync":
            assert message["cursor"] is None
            self.roster = {member["cid"]: member["state"] for member in message["members"]}
            self.syncs += 1
        elif message["t"] == "diff":
            apply(self.roster, message)
        elif message["t"] == "message":
            self.messages.append(message["data"])


async def roster_of(client: RawClient, room: str) -> Fields:
    page = await client.request(t="members", room=room, limit=1_000, id=900)
    assert page["cursor"] is None
    return {member["cid"]: member["state"] for member in page["members"]}


async def stream(writer: RawClient, room: str, rounds: int = ROUNDS) -> None:
    """Update with 2 KiB and publish something small, again and again; each is acknowledged in time."""
    for n in range(rounds):
        with anyio.fail_after(DEADLINE_S):
            await writer.request(t="update", room=room, state={"n": n, "pad": "x" * 2 * KIB}, id=2 * n)
            await writer.request(t="publish", room=room, data=n, id=2 * n + 1)


async def hear_messages(client: RawClient, count: int) -> None:
    while count:
        count -= (await client.hear())["t"] == "message"


async def test_a_slow_reader_costs_little_and_finds_the_right_roster_and_every_message(node: Node) -> None:
    room = "slow"
    async with (
        speaking(node.port) as writer,
        speaking(node.port) as fast,
        speaking(node.port, receive_bytes=RECEIVE_BYTES) as slow,
    ):
        await writer.request(t="join", room=room, mode="none", id=1)
        await fast.request(t="watch", room=room, id=1)
        fold = Fold()
        fold.take(await slow.request(t="join", room=room, id=1))
        before = rss_bytes(node.pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear_messages, fast, ROUNDS)
            await stream(writer, room)
        async with speaking(node.port) as visitor:
            await visitor.request(t="join", room=room, id=1)
            await visitor.request(t="leave", room=room, id=2)
        assert rss_bytes(node.pid) - before < GROWTH_MAX

        received = 0
        while fold.roster.get(writer.cid, {}).get("n") != ROUNDS - 1 or len(fold.messages) < ROUNDS:
            message = await slow.hear()
            received += len(json.dumps(message))
            if message["t"] == "sync":
                assert "id" not in message
            fold.take(message)
        assert fold.syncs >= 2
        assert fold.messages == list(range(ROUNDS))
        assert received < ROUNDS * 2 * KIB
        assert fold.roster == await roster_of(fast, room)

        await writer.request(t="update", room=room, state={"n": "last"}, id=9_000)
        while fold.roster[writer.cid] != {"n": "last"}:
            message = await slow.hear()
            assert message["t"] == "diff"
            fold.take(message)


async def test_a_slow_reader_over_the_hard_limit_is_closed_and_the_others_are_not(node: Node) -> None:
    room = "too-slow"
    data = "x" * 4 * KIB
    rounds = 3 * HARD_BYTES // len(data)
    async with (
        speaking(node.port) as writer,
        speaking(node.port) as fast,
        speaking(node.port, receive_bytes=RECEIVE_BYTES) as slow,
    ):
        await writer.request(t="watch", room=room, id=1)
        await fast.request(t="watch", room=room, id=1)
        await slow.request(t="join", room=room, id=1)
        before = rss_bytes(node.pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear_messages, fast, rounds)
            for n in range(rounds):
                with anyio.fail_after(DEADLINE_S):
                    await writer.request(t="publish", room=room, data=data, id=n)
        assert rss_bytes(node.pid) - before < GROWTH_MAX
        ending = await slow.ending()
        assert (ending.code, ending.bye is not None) == (4102, True)
        assert {message["t"] for message in ending.messages} <= {"message", "sync", "bye"}


async def test_a_reader_that_stays_slow_is_closed_in_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    args = (*UNTHROTTLED, "--limits.outbox_soft_bytes", str(SOFT_BYTES), "--limits.outbox_hard_ms", "500")
    args += ("--presence.grace_lost_ms", "200")
    async with (
        Node(tmp_path_factory.mktemp("node"), *args) as node,
        speaking(node.port) as writer,
        speaking(node.port, receive_bytes=RECEIVE_BYTES) as slow,
    ):
        await writer.request(t="join", room="slow", id=1)
        await slow.request(t="join", room="slow", id=1)
        await stream(writer, "slow", 50)
        with anyio.fail_after(DEADLINE_S):
            while (await writer.hear()).get("leaves") is None:
                pass
        ending = await slow.ending()
        assert (ending.code, ending.bye is not None) == (4102, True)


async def test_a_client_that_does_not_read_its_replies_is_not_read_from(node: Node) -> None:
    burst = text(t="ping", id=1) * 1_000
    async with speaking(node.port, receive_bytes=RECEIVE_BYTES) as greedy, speaking(node.port) as other:
        before = rss_bytes(node.pid)
        sent = refused = 0
        while refused < 20:
            taken = greedy.send_some(burst[sent % len(burst) :])
            sent += taken
            refused = 0 if taken else refused + 1
            if not taken:
                with anyio.fail_after(DEADLINE_S):
                    await other.request(t="ping", id=1)
                await anyio.sleep(0.01)
        assert sent < 32 * 1_024 * KIB
        assert rss_bytes(node.pid) - before < GROWTH_MAX
        replies = 0
        for _ in range(sent // len(text(t="ping", id=1))):
            replies += (await greedy.hear())["t"] == "pong"
        assert replies == sent // len(text(t="ping", id=1))


async def test_a_client_that_asks_without_reading_is_slowed_down_and_not_closed(node: Node) -> None:
    asked, step = 10_000, 40
    async with speaking(node.port, receive_bytes=RECEIVE_BYTES) as greedy, speaking(node.port) as other:
        for first in range(0, asked, step):
            await greedy.send(b"".join(text(t="ping", id=n) for n in range(first, first + step)))
            await other.request(t="ping", id=1)
        replies = [await greedy.hear() for _ in range(asked)]
        assert [reply.get("id") for reply in replies] == list(range(asked))
        assert sum(len(json.dumps(reply)) for reply in replies) > HARD_BYTES


@contextmanager
def follower(node: Node, room: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.follower", node.ws_url, room]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        try:
            yield process
        finally:
            process.kill()


async def said(output: IO[str] | None) -> Fields:
    assert output is not None
    with anyio.fail_after(DEADLINE_S):
        line = await to_thread.run_sync(output.readline, abandon_on_cancel=True)
    message = json.loads(line)
    assert isinstance(message, dict)
    return message


async def test_a_stopped_process_costs_little_and_is_right_once_it_runs_again(node: Node) -> None:
    room = "stopped"
    async with speaking(node.port) as writer:
        await writer.request(t="join", room=room, mode="none", id=1)
        with follower(node, room) as process:
            assert (await said(process.stdout))["t"] == "welcome"
            assert (await said(process.stdout))["t"] == "sync"
            process.send_signal(signal.SIGSTOP)
            before = rss_bytes(node.pid)
            await stream(writer, room)
            assert rss_bytes(node.pid) - before < GROWTH_MAX
            process.send_signal(signal.SIGCONT)
            line: Fields = {"messages": [], "roster": {}}
            while len(line["messages"]) < ROUNDS or line["roster"].get(writer.cid, {}).get("n") != ROUNDS - 1:
                line = await said(process.stdout)
            assert line["messages"] == list(range(ROUNDS))
            assert line["roster"] == await roster_of(writer, room)
            assert line["syncs"] >= 2
