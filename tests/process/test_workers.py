"""Several workers on one port: what is shared, and what happens when one of the processes dies."""

import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from presence_server.client import Client, Connected, Left
from presence_server.client.mailbox import Mailbox
from presence_server.workers.internal_port import CALL_S
from tests.support.api import Answer, call
from tests.support.daemon import free_port
from tests.support.metrics import scrape, value
from tests.support.node import NodeFailedError
from tests.support.rawclient import RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, eventually, until
from tests.support.workers import Workers, children, inside, is_alive, one_on_each, socket_folder, until_gone

pytestmark = pytest.mark.anyio
Found = TypeVar("Found")
CALLS = 16
"""On as many connections: with two workers they are never all for one."""
TLS = Path(__file__).parents[1] / "config" / "tls"
RELOADED = "limits, secrets and certificates read again"


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


@pytest.fixture
async def node(tmp_path: Path, folder: Path, anyio_backend: str) -> AsyncIterator[Workers]:
    async with Workers(tmp_path, folder) as node:
        yield node


async def ready(node: Workers) -> Answer:
    return await call(node, "GET", "/readyz")


def is_ready(answer: Answer) -> bool:
    return answer.status == 200


async def next_of(kind: type[Found], mailbox: Mailbox) -> Found:
    """Return the next event of a kind."""
    with anyio.fail_after(DEADLINE_S):
        async for event in mailbox:
            if isinstance(event, kind):
                return event
    raise AssertionError("the client was closed")


async def online(client: Client, room: str = "lobby") -> set[str]:
    return set((await client.join(room)).users)


def lines(node: Workers, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, node.log.splitlines()) if line["event"] == event]


@pytest.mark.usefixtures("executed")
async def test_workers_share_a_port_a_store_an_api_and_a_page_of_metrics(node: Workers, folder: Path) -> None:
    assert len(set(node.nodes)) == 2
    (private,) = inside(folder)
    assert private.stat().st_mode & 0o777 == 0o700
    async with AsyncExitStack() as stack:
        first, second = await one_on_each(node, stack)
        await first.join("lobby")
        assert await online(second) == {first.user, second.user}
        for _ in range(4):  # on different connections, so of either worker
            answer = await call(node, "GET", "/v1/rooms/lobby")
            assert (answer.status, answer.body["count"]) == (200, 2)
        assert {each["node"] for each in (await call(node, "GET", "/v1/nodes")).body["nodes"]} == set(
            node.nodes
        )
        assert (await call(node, "POST", "/v1/rooms/lobby/messages", {"data": "x" * 70_000})).status == 413
        assert (await call(node, "GET", "/v1/nothing?a=%2F")).status == 404
        async with RawClient(node.api_port) as old:
            await old.send(
                b"GET /v1/rooms HTTP/1.0\r\n\r\n"
            )  # without Host, which is refused as one process does
            assert (await old.respond()).status == 403
        found = await scrape(node)
        for worker in ("1", "2"):
            assert value(found, "presence_connections", worker=worker) >= 1
            assert value(found, "presence_worker_up", worker=worker) == 1
        assert value(found, "presence_embedded_store_up", worker="supervisor") == 1
    elsewhere = {"Host": "presence.example"}
    assert (await call(node, "GET", "/metrics", headers=elsewhere)).status == 403
    assert (await call(node, "GET", "/v1/rooms", headers=elsewhere)).status == 403
    answer = await ready(node)
    assert answer.status == 200
    assert answer.body["checks"] == dict.fromkeys(
        ("draining", "embedded store", "worker 1", "worker 2"), "ok"
    )


async def test_a_killed_worker_is_started_again_and_its_clients_are_not_seen_to_leave(node: Workers) -> None:
    async with AsyncExitStack() as stack:
        first, second = await one_on_each(node, stack)
        await first.join("lobby")
        lobby = await second.join("lobby")
        before = node.worker(1)
        with second.events() as heard, first.events() as own:
            os.kill(before, signal.SIGKILL)
            again = await next_of(Connected, own)
            assert again.resumed
            assert again.node != node.nodes[0]
            await lobby.publish("the other worker serves on")
            await until(lambda: node.worker(1) not in {0, before}, lambda: node.log)
            answer = await eventually(lambda: ready(node), is_ready)
            assert answer.body["checks"]["worker 1"] == "ok"
            assert set(lobby.users) == {first.user, second.user}
            while (event := heard.take_event()) is not None:
                assert not isinstance(event, Left)
        found = await scrape(node)
        assert value(found, "presence_worker_restarts_total", worker="1") == 1
    (line,) = lines(node, "a worker has ended")
    assert (line["worker"], line["how"]) == (1, "was ended by SIGKILL")


async def test_a_killed_store_is_started_again_and_the_workers_rejoin(node: Workers) -> None:
    async with AsyncExitStack() as stack:
        first, second = await one_on_each(node, stack)
        await first.join("lobby")
        await second.join("lobby")
        before = node.store
        os.kill(before, signal.SIGKILL)

        async def members() -> Any:
            answer = await call(node, "GET", "/v1/rooms/lobby/members")
            return (
                {member["user"] for member in answer.body["members"]} if answer.status == 200 else answer.body
            )

        await eventually(members, lambda users: users == {first.user, second.user})
        assert node.store not in {0, before}
        await eventually(lambda: ready(node), is_ready)
        found = await scrape(node)
        assert value(found, "presence_embedded_store_restarts_total", worker="supervisor") == 1
        keeper = node.keeper
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not is_alive(before) and keeper not in children(node.pid))
        await eventually(members, lambda users: users == {first.user, second.user})
    (line,) = lines(node, "the embedded store has ended")
    assert line["how"] == "was ended by SIGKILL"


@pytest.mark.parametrize("frozen", [False, True])
async def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, folder: Path, *, frozen: bool) -> None:
    async with Workers(tmp_path, folder) as node:
        processes = node.processes()
        assert len(processes) == 5
        if frozen:
            os.kill(node.worker(2), signal.SIGSTOP)
        node.kill()
        await node.wait()
    await until_gone(processes)
    await until(lambda: not inside(folder))


async def test_a_frozen_worker_is_named_by_the_probe_and_calls_go_to_the_other(node: Workers) -> None:
    os.kill(frozen := node.worker(2), signal.SIGSTOP)
    answer = await ready(node)
    assert (answer.status, answer.body["checks"]["worker 2"]) == (503, "it does not answer")
    assert answer.body["checks"]["worker 1"] == "ok"
    assert (await call(node, "GET", "/healthz")).status == 200
    with anyio.fail_after(CALL_S - 5):
        for _ in range(CALLS):
            assert (await call(node, "GET", "/v1/rooms/lobby")).status == 200
    os.kill(frozen, signal.SIGCONT)
    await eventually(lambda: ready(node), is_ready)


async def test_calls_that_change_nothing_are_passed_on_from_a_worker_that_is_killed(node: Workers) -> None:
    os.kill(frozen := node.worker(2), signal.SIGSTOP)
    statuses = []

    async def ask() -> None:
        statuses.append((await call(node, "GET", "/v1/rooms/lobby")).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(CALLS):
            tasks.start_soon(ask)
        await until(lambda: statuses)
        os.kill(frozen, signal.SIGKILL)
    assert statuses == [200] * CALLS


async def test_a_worker_that_cannot_start_is_named_with_its_reason(tmp_path: Path, folder: Path) -> None:
    cert, key = (Path(shutil.copy(TLS / name, tmp_path)) for name in ("cert.pem", "key.pem"))

    def is_given_up(answer: Answer) -> bool:
        return "exit code 2" in str(answer.body["checks"]["worker 1"])

    async with Workers(
        tmp_path, folder, "--server.tls_cert", str(cert), "--server.tls_key", str(key)
    ) as node:
        (private,) = inside(folder)
        private.rename(folder / "moved")
        os.kill(node.worker(1), signal.SIGKILL)
        assert (await eventually(lambda: ready(node), is_given_up)).status == 503
        cert.write_text("no certificate")
        (folder / "moved").rename(private)
        await until(lambda: "server.tls_cert" in node.log)
        assert (await eventually(lambda: ready(node), is_given_up)).status == 503
        shutil.copy(TLS / "cert.pem", cert)
        await eventually(lambda: ready(node), is_ready)
        first, *_, last = lines(node, "cannot listen")
        assert first["error"].startswith(f"server.socket_dir: {private}")
        assert last["error"].startswith(f"server.tls_cert: {cert} and {key} are no longer a certificate")
        assert {first["worker"], last["worker"]} == {1}
        assert "Traceback" not in node.log


@pytest.mark.parametrize("to_all", [False, True])
async def test_sigterm_drains_every_worker_and_leaves_nothing(
    tmp_path: Path, folder: Path, *, to_all: bool
) -> None:
    async with Workers(tmp_path, folder) as node, AsyncExitStack() as stack:
        processes = node.processes()
        clients = [await stack.enter_async_context(speaking(node.port)) for _ in range(20)]
        assert {client.welcome["node"] for client in clients} == set(node.nodes)
        # A service manager may tell every process, the store's too, and the supervisor tells its workers again.
        for pid in processes if to_all else [node.pid]:
            os.kill(pid, signal.SIGTERM)
        assert {(await client.ending()).code for client in clients} == {4200}
        assert await node.wait() == 0
    await until_gone(processes)
    assert not inside(folder)
    assert not lines(node, "a worker has ended")
    assert not lines(node, "the embedded store has ended")


async def test_a_second_sigterm_stops_at_once(tmp_path: Path, folder: Path) -> None:
    async with (
        Workers(tmp_path, folder, "--server.drain_ms", "600000") as node,
        speaking(node.port) as stubborn,
    ):
        node.terminate()
        await stubborn.until("bye")
        assert (await ready(node)).body["checks"]["draining"] != "ok"
        node.terminate()
        assert await node.wait() == 0


async def test_sighup_reaches_every_worker_and_those_that_are_started_later(
    tmp_path: Path, folder: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("first\n")

    node = Workers(tmp_path, folder, "--api.key_file", str(key))

    async def answers() -> set[int]:
        bearer = {"Authorization": "Bearer second"}
        return {(await call(node, "GET", "/v1/nodes", headers=bearer)).status for _ in range(8)}

    async with node:
        key.write_text("")
        node.signal(signal.SIGHUP)
        await until(lambda: lines(node, "the settings cannot be used; the old ones stay"))
        assert await answers() == {401}
        key.write_text("second\n")
        node.signal(signal.SIGHUP)
        await eventually(answers, lambda statuses: statuses == {200})
        before = node.worker(1)
        os.kill(before, signal.SIGKILL)
        await until(lambda: node.worker(1) not in {0, before})
        await eventually(lambda: ready(node), is_ready)
        await eventually(answers, lambda statuses: statuses == {200})
        assert {line["worker"] for line in lines(node, RELOADED)} == {
            1,
            2,
        }


async def test_workers_share_a_store_that_is_there_already(tmp_path: Path, folder: Path) -> None:
    with RedisServer("valkey") as server:
        async with Workers(tmp_path, folder, "--redis.url", server.url, workers="auto") as node:
            assert node.store == 0
            assert "embedded store" not in (await ready(node)).body["checks"]
            server.freeze()

            def is_isolated(answer: Answer) -> bool:
                checks = answer.body["checks"]
                return all("store" in checks[f"worker {number}"] for number in (1, 2))

            assert (await eventually(lambda: ready(node), is_isolated)).status == 503
            answer = await call(node, "GET", "/readyz?isolated=ok")
            assert (answer.status, answer.body["status"]) == (200, "isolated")
            assert (await call(node, "GET", "/readyz?isolated=no")).status == 400
            server.thaw()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_of_two_started_at_once_on_one_port_one_is_ready(
    tmp_path: Path, folder: Path, workers: str
) -> None:
    port = free_port()
    pair = [Workers(tmp_path, folder, workers=workers) for _ in range(2)]
    failed = []

    async def start(node: Workers) -> None:
        node.port = port
        try:
            await node.start()
        except NodeFailedError:
            failed.append(node)

    async with anyio.create_task_group() as tasks:
        for node in pair:
            tasks.start_soon(start, node)
    for node in pair:
        if node not in failed:
            assert await node.stop() == 0
    (refused,) = failed
    assert refused.returncode == 2
    assert f"server.port: 127.0.0.1, port {port} is in use" in refused.log
    assert "Traceback" not in refused.log


async def test_a_frozen_worker_holds_up_neither_orders_nor_the_end(tmp_path: Path, folder: Path) -> None:
    config = tmp_path / "presence.toml"
    origins = [f"https://{n}.example" for n in range(5_000)]
    config.write_text(f"[server]\ndrain_ms = 500\norigins = {json.dumps(origins)}\n")
    async with Workers(tmp_path, folder, "--config", str(config)) as node:
        os.kill(node.worker(1), signal.SIGSTOP)
        for reloads in range(1, 5):  # more than its pipe holds
            node.signal(signal.SIGHUP)
            await until(lambda reloads=reloads: len(lines(node, RELOADED)) >= reloads)  # type: ignore[misc]  # not inferred
        node.terminate()
        assert await node.wait() == 0
        (line,) = lines(node, "a worker does not end, and is killed")
        assert line["worker"] == 1


@pytest.mark.parametrize("flag", ["port", "api_port"])
async def test_a_port_in_use_is_named_before_a_worker_is_started(
    tmp_path: Path, folder: Path, flag: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = Workers(tmp_path, folder)
        setattr(node, flag, port)
        with pytest.raises(NodeFailedError):
            await node.start()
        assert node.returncode == 2
    (line,) = map(json.loads, node.log.splitlines())
    assert line["event"] == "cannot listen"
    assert line["error"].startswith(f"server.{flag}: 127.0.0.1, port {port} is in use; try another with --")
