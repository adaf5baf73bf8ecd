"""What a node writes to its log, and what it never does."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node
from tests.support.rawclient import TEXT, UPGRADE, RawClient, frame, request, speaking
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-tok3n"
REFUSALS = 30
BODY = "nobody-else-may-read-this"


async def test_it_is_one_json_object_a_line_and_holds_no_token_and_no_message(tmp_path: Path) -> None:
    async with Node(tmp_path, "--auth.resume_secret", SECRET) as node:
        async with speaking(node.port, f"/ws?user=alice&token={SECRET}") as alice:
            token = alice.welcome["resume"]
            await alice.request(t="join", room="lobby", state={"note": BODY}, id=1)
            await alice.request(t="publish", room="lobby", data=BODY, id=2)
            await alice.request(t="auth", token=SECRET, id=3)
            await alice.send(frame(TEXT, f'{{"t":"{BODY}","data":"{BODY}'.encode()))
            await alice.request(t=BODY, id=4)
            await alice.send(frame(TEXT, BODY.encode() + b"\xff"))
            assert (await alice.ending()).code == 1007
        offers = (f"bearer.{SECRET}", f"resume.{token}", f"presence.v1.json, resume.{token}")
        for offer in offers:
            async with speaking(
                node.port,
                "/ws?user=alice",
                {"Sec-WebSocket-Protocol": offer, "Authorization": f"Bearer {SECRET}"},
            ) as again:
                await again.close()
        for path in (f"/ws?resume={token}", f"/{SECRET}", f"/ws?token={SECRET}&user=%ff"):
            async with RawClient(node.port) as client:
                await client.ask(path, {"Upgrade": None, "Connection": None})
        async with RawClient(node.port) as client:
            await client.send(f"GET /{SECRET}\r\n\r\n".encode())
            await client.respond()
        async with RawClient(node.port) as client:
            await client.send(
                request(f"/ws?token={SECRET}&resume={token}") + frame(TEXT, BODY.encode(), rsv=2)
            )
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert {"draining", "stopped"} <= {line["event"] for line in lines}
    for line in lines:
        assert {"event", "level", "timestamp"} <= line.keys()
    for secret in (SECRET, token, token.split(".")[2], BODY):
        assert secret not in node.log


def logged(node: Node, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, node.log.splitlines()) if line["event"] == event]


async def test_refusals_are_logged_once_a_second_with_a_count_and_what_helps(tmp_path: Path) -> None:
    page = {"Origin": "https://evil.example", "Host": "app.example"}
    async with Node(tmp_path, "--server.origins", "https://app.example") as node:
        began_s = time.monotonic()
        for _ in range(REFUSALS):
            async with RawClient(node.port) as client:
                assert (await client.ask("/ws", UPGRADE | page)).status == 403
            async with RawClient(node.port) as client:
                assert (await client.ask("/ws", {"Upgrade": None, "Connection": "keep-alive"})).status == 426
            async with RawClient(node.port) as client:
                offer = f"bearer.{SECRET} bearer.{SECRET}"
                assert (await client.ask("/ws", UPGRADE | {"Sec-WebSocket-Protocol": offer})).status == 400

        def counted(event: str) -> int:
            return sum(line.get("times", 1) for line in logged(node, event))

        await until(lambda: counted("page refused by its origin") == REFUSALS)
        await until(lambda: counted("handshake refused") == 2 * REFUSALS)
        most = 2 + time.monotonic() - began_s
        (first, *_) = foreign = logged(node, "page refused by its origin")
        assert len(foreign) <= most
        assert len(logged(node, "handshake refused")) <= most
        assert (first["origin"], first["host"]) == ("https://evil.example", "app.example")
        assert first["reason"] == "add the origin to server.origins if its pages may connect"
        reasons = {line["reason"] for line in logged(node, "handshake refused")}
        assert reasons <= {
            "Failed to open a WebSocket connection: invalid Connection header: keep-alive.",
            "Sec-WebSocket-Protocol cannot be read",
        }
        assert SECRET not in node.log


async def test_a_proxy_that_does_not_pass_the_host_on_is_told_of(tmp_path: Path) -> None:
    secret = "x" * 32
    async with Node(tmp_path, "--auth.mode", "jwt", "--auth.secret", secret) as node:
        async with RawClient(node.port) as client:
            page = {"Origin": "https://app.example", "Host": "backend:8080"}
            assert (await client.ask("/ws", UPGRADE | page)).status == 403
        (line,) = logged(node, "page refused by its origin")
        assert (line["origin"], line["host"]) == ("https://app.example", "backend:8080")
        assert "a proxy must pass on Host" in line["reason"]


async def test_the_level_and_the_form_of_the_log_are_settings(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text('[log]\nlevel = "warning"\nformat = "text"\n')
    async with Node(tmp_path, "--config", str(config), "--host", "0.0.0.0") as node:  # noqa: S104 - is warned of
        assert "DANGER" in node.log
        assert not node.log.startswith("{")
        assert "\x1b" not in node.log
        assert "demo page" not in node.log
        config.write_text("[log]\n")
        node.signal(signal.SIGHUP)
        await until(lambda: "limits, secrets and certificates read again" in node.log)


async def test_connections_come_and_go_without_a_line(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        async with speaking(node.port) as client:
            await client.close()
        before = node.log
        for _ in range(5):
            async with speaking(node.port) as client:
                await client.close()
            async with RawClient(node.port) as client:
                await client.ask("/nothing", base={})
            async with speaking(node.port) as client:
                await client.send(frame(TEXT, b"x", masked=False))
                await client.ending()
            async with speaking(node.port) as client:
                client.reset()
        assert node.log == before
