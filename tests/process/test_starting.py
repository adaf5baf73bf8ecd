"""From the command to the `ready` line, or to the reason why there is none."""

import json
import os
import signal
import socket
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import pytest

from tests.support.node import Node, NodeFailedError
from tests.support.rawclient import RawClient, speaking
from tests.support.waiting import eventually, until
from tests.support.workers import Workers, socket_folder

pytestmark = pytest.mark.anyio


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


async def test_port_0_picks_two_free_ports_and_the_ready_line_names_them(tmp_path: Path) -> None:
    async with Node(tmp_path) as node, Node(tmp_path) as other:
        ports = {node.port, node.api_port, other.port, other.api_port}
        assert len(ports) == 4
        assert 0 not in ports
        assert node.id != other.id
        async with speaking(node.port) as client:
            assert client.welcome["node"] == node.id
        for url in (node.http_url, node.api_url, other.http_url, other.api_url):
            assert await status_of(f"{url}/healthz") == 200


@pytest.mark.usefixtures("executed")
async def test_the_ready_line_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.start()
    async with speaking(node.port):
        pass
    output = node.output
    node.terminate()
    with anyio.fail_after(20):
        rest = await anyio.to_thread.run_sync(output.readall)
    assert await node.wait() == 0
    assert rest == b""


async def test_the_two_ports_do_not_answer_for_each_other(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        assert await status_of(f"{node.api_url}/healthz") == 200
        assert await status_of(f"{node.api_url}/static/presence-1.js") == 404
        async with RawClient(node.api_port) as client:
            assert (await client.ask("/ws", {"Connection": "close"})).status == 404


@pytest.mark.parametrize("flag", ["port", "api_port"])
async def test_a_port_in_use_is_exit_2_and_named_with_its_setting(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = Node(tmp_path, **{flag: port})
        with pytest.raises(NodeFailedError):
            await node.start()
        assert node.returncode == 2
    (line,) = [json.loads(line) for line in node.log.splitlines() if "cannot listen" in line]
    assert line["level"] in {"error", "critical"}
    assert line["error"].startswith(f"server.{flag}: 127.0.0.1, port {port} is in use; try another with --")
    assert "Traceback" not in node.log


async def test_an_address_of_another_machine_is_exit_2_too(tmp_path: Path) -> None:
    node = Node(tmp_path, "--host", "192.0.2.1")
    with pytest.raises(NodeFailedError):
        await node.start()
    assert node.returncode == 2
    assert "server.host: 192.0.2.1, port" in node.log


@pytest.mark.usefixtures("executed")
async def test_a_wrong_setting_is_exit_2_and_nothing_listens(tmp_path: Path) -> None:
    node = Node(tmp_path, "--presence.ping_mss", "1")
    with pytest.raises(NodeFailedError):
        await node.start()
    assert node.returncode == 2
    assert "--presence.ping_ms" in node.log


async def test_settings_come_from_flags_over_the_environment_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text(
        "[presence]\nping_ms = 1111\n[limits]\nrooms = 11\nstate_bytes = 111\n[server]\ndemo = false"
    )
    environment = {"PRESENCE_LIMITS__ROOMS": "22", "PRESENCE_LIMITS__STATE_BYTES": "222"}
    args = ("--config", str(config), "--limits.state_bytes", "333")
    async with Node(tmp_path, *args, env=environment) as node, speaking(node.port) as client:
        assert client.welcome["ping_ms"] == 1111
        assert client.welcome["limits"]["rooms"] == 22
        assert client.welcome["limits"]["state_bytes"] == 333
        assert await status_of(f"{node.http_url}/") == 404


async def test_a_file_that_is_not_there_is_exit_2(tmp_path: Path) -> None:
    node = Node(tmp_path, "--config", str(tmp_path / "nothing.toml"))
    with pytest.raises(NodeFailedError):
        await node.start()
    assert node.returncode == 2
    assert "nothing.toml" in node.log


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_signals_that_come_before_the_node_is_ready_are_heard_when_it_is(
    tmp_path: Path, workers: str
) -> None:
    config = tmp_path / "presence.toml"
    os.mkfifo(config)
    with socket_folder() as folder:
        node = Workers(tmp_path, folder, "--config", str(config), workers=workers)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.start)
            written = await eventually(partial(open_to_write, config), lambda file: file >= 0)
            node.signal(signal.SIGHUP)  # it waits for its settings
            config.rename(tmp_path / "fifo")
            config.write_text("[log]\nlevel = 3\n")
            os.close(written)
        await until(lambda: "the settings cannot be used; the old ones stay" in node.log)
        assert await node.stop() == 0


@pytest.mark.usefixtures("executed")
async def test_sigterm_before_the_node_is_ready_ends_it_in_order(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    os.mkfifo(config)
    node = Node(tmp_path, "--config", str(config))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.start)
        written = await eventually(partial(open_to_write, config), lambda file: file >= 0)
        node.terminate()
        os.close(written)
    assert await node.wait() == 0
    assert "stopped" in node.log


async def open_to_write(fifo: Path) -> int:
    """Return a file, or -1 where nobody reads."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return -1
