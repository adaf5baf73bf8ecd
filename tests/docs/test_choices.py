"""What docs/wire.md says of cases where servers differ, asked of a real server."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.node import Node

pytestmark = pytest.mark.anyio
DEADLINE_S = 30
GRACE = ("--presence.grace_clean_ms", "1", "--presence.grace_lost_ms", "300000")


@pytest.fixture
async def node(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Node]:
    async with Node(tmp_path, *GRACE) as node:
        yield node


async def received(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of one type; others before it are dropped."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["t"] == kind:
                return message


async def asked(socket: ClientConnection, text: str) -> dict[str, Any]:
    """Send a message and return the next one that answers, by its id or as an error."""
    await socket.send(text)
    with anyio.fail_after(DEADLINE_S):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if "id" in message or message["t"] == "error":
                return message


async def member(node: Node, room: str = "lobby") -> tuple[ClientConnection, str]:
    """Connect and join; return the connection and its cid."""
    socket = await connect(node.ws_url)
    cid = (await received(socket, "welcome"))["cid"]
    await asked(socket, json.dumps({"t": "join", "room": room, "id": 1}))
    return socket, cid


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_close_with_1000_or_1001_or_no_code_is_clean(node: Node, code: int | None) -> None:
    watcher, _ = await member(node)
    leaver, cid = await member(node)
    if code is None:
        leaver.protocol.send_close()
        leaver.send_data()
    else:
        await leaver.close(code)
    while not (leaves := (await received(watcher, "diff")).get("leaves")):
        pass
    assert [(leave["cid"], leave["reason"]) for leave in leaves] == [(cid, "closed")]
    await leaver.close()
    await watcher.close()


async def test_a_clients_own_4003_is_a_lost_connection(node: Node) -> None:
    watcher, _ = await member(node)
    leaver, cid = await member(node)
    clean, clean_cid = await member(node)
    await leaver.close(4003)
    await clean.close(1000)
    while not (leaves := (await received(watcher, "diff")).get("leaves")):
        pass
    assert [leave["cid"] for leave in leaves] == [clean_cid]
    page = await asked(watcher, '{"t": "members", "room": "lobby", "id": 2}')
    assert cid in {entry["cid"] for entry in page["members"]}
    await watcher.close()


@pytest.mark.parametrize(
    "message",
    [
        {"t": "leave"},
        {"t": "update", "state": {}},
        {"t": "publish", "data": 1},
        {"t": "signal", "key": "k", "data": 1},
        {"t": "members"},
    ],
    ids=lambda message: message["t"],
)
async def test_a_room_that_one_is_not_in_is_not_joined(node: Node, message: dict[str, Any]) -> None:
    async with connect(node.ws_url) as socket:
        error = await asked(socket, json.dumps(message | {"room": "elsewhere", "id": 5}))
        assert (error["code"], error["id"], error["room"]) == ("not_joined", 5, "elsewhere")


@pytest.mark.parametrize(
    "message",
    [
        '{"t": "publish", "room": "lobby", "data": 18446744073709551616, "id": 9}',
        '{"t": "update", "room": "lobby", "state": null, "id": 9}',
        '{"t": "join", "room": "lobby", "state": null, "id": 9}',
        '{"t": "publish", "room": "lobby", "data": ' + "[" * 33 + "]" * 33 + ', "id": 9}',
        '{"t": "signal", "room": "lobby", "key": "' + "k" * 129 + '", "data": 1, "id": 9}',
        '{"t": "members", "room": "lobby", "limit": 1001, "id": 9}',
    ],
    ids=["65 bits", "no state", "null", "33 deep", "long key", "long page"],
)
async def test_what_is_no_message_is_bad_message_with_its_id(node: Node, message: str) -> None:
    socket, _ = await member(node)
    error = await asked(socket, message)
    assert (error["code"], error["id"]) == ("bad_message", 9)
    await socket.close()


@pytest.mark.parametrize("message", ['{"t": "ping", "id": 9', '{"t": "publish", "data": 1e999, "id": 9}'])
async def test_what_cannot_be_read_is_bad_message_without_an_id(node: Node, message: str) -> None:
    async with connect(node.ws_url) as socket:
        error = await asked(socket, message)
        assert (error["code"], "id" in error) == ("bad_message", False)


async def test_numbers_up_to_64_bits_and_32_levels_pass_unchanged(node: Node) -> None:
    socket, _ = await member(node)
    watcher, _ = await member(node)
    for data in ("18446744073709551615", "-9223372036854775808", "[" * 32 + "]" * 32):
        await asked(socket, f'{{"t": "publish", "room": "lobby", "data": {data}, "id": 9}}')
        assert (await received(watcher, "message"))["data"] == json.loads(data)
    await socket.close()
    await watcher.close()


@pytest.mark.parametrize("mode", ["count", "none"])
async def test_without_rosters_a_sync_has_numbers_and_members_can_be_asked_for(node: Node, mode: str) -> None:
    socket, cid = await member(node)
    sync = await asked(socket, json.dumps({"t": "watch", "room": "lobby", "mode": mode, "id": 2}))
    assert (sync["mode"], sync["members"], sync["cursor"], sync["count"], sync["you"]) == (
        mode,
        [],
        None,
        1,
        True,
    )
    page = await asked(socket, '{"t": "members", "room": "lobby", "id": 3}')
    assert [entry["cid"] for entry in page["members"]] == [cid]
    await socket.close()


async def test_an_update_with_an_equal_state_counts_and_a_join_does_not(node: Node) -> None:
    socket, cid = await member(node)
    assert (await asked(socket, '{"t": "update", "room": "lobby", "state": {}, "id": 2}'))["v"] == 2
    assert (await received(socket, "diff"))["updates"] == [{"cid": cid, "state": {}, "v": 2}]
    sync = await asked(socket, '{"t": "join", "room": "lobby", "state": {}, "id": 3}')
    assert sync["members"][0]["v"] == 2
    await socket.close()


async def test_a_watcher_publishes_under_its_name_without_being_listed(node: Node) -> None:
    socket, _ = await member(node)
    async with connect(f"{node.ws_url}?user=onlooker") as watcher:
        assert (await asked(watcher, '{"t": "watch", "room": "lobby", "id": 1}'))["count"] == 1
        await asked(watcher, '{"t": "publish", "room": "lobby", "data": 1, "id": 2}')
        assert (await received(socket, "message"))["user"] == "onlooker"
        error = await asked(watcher, '{"t": "update", "room": "lobby", "state": {}, "id": 3}')
        assert error["code"] == "not_joined"
    await socket.close()


async def test_a_room_that_becomes_crowded_tells_numbers_and_names_again_later(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text('[[rooms]]\npattern = "*"\nfull_max = 2\n')
    async with Node(tmp_path, "--config", str(config), *GRACE) as node:
        sockets = [(await member(node))[0] for _ in range(3)]
        crowded = await received(sockets[0], "sync")
        assert (crowded["mode"], crowded["members"], "id" in crowded) == ("count", [], False)
        for socket in sockets[1:]:
            await asked(socket, '{"t": "leave", "room": "lobby", "id": 2}')
        quiet = await received(sockets[0], "sync")
        assert (quiet["mode"], len(quiet["members"]), "id" in quiet) == ("full", 1, False)
        for socket in sockets:
            await socket.close()
