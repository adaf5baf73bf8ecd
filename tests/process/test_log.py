"""What a node writes to its log, and what it never does."""

import json
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.rawclient import TEXT, RawClient, frame, request, speaking

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-tok3n"
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
