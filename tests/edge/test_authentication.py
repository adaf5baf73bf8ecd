"""Who is let in by a real server that checks credentials, and what is written down of who is not."""

import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.node import Node
from tests.support.rawclient import UPGRADE, RawClient, Response, speaking
from tests.support.signing import SECRET, part, token
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LINE_MAX = 8_192
"""The longest header line that is read at all."""
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One server for all tests of this file."""
    flags = ("--auth.mode", "jwt", "--auth.secret", SECRET, "--auth.audience", "chat")
    async with Node(tmp_path_factory.mktemp("node"), *flags) as node:
        yield node


def good(**claims: Any) -> str:
    return token(**({"aud": "chat"} | claims))


async def asked(node: Node, path: str = "/ws", headers: Mapping[str, str | None] | None = None) -> Response:
    async with RawClient(node.port) as client:
        return await client.ask(path, UPGRADE | dict(headers or {}))


def bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def refusals(node: Node) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.splitlines()]
    return [line for line in lines if line["event"] == "handshake refused"]


@pytest.mark.parametrize("place", ["header", "subprotocol", "query"])
async def test_a_token_may_be_in_three_places(guarded: Node, place: str) -> None:
    text = good(info={"name": "Alice"})
    path = f"/ws?token={text}" if place == "query" else "/ws"
    headers = bearing(text) if place == "header" else {}
    if place == "subprotocol":
        headers = {"Sec-WebSocket-Protocol": f"presence.v1.json, bearer.{text}"}
    async with RawClient(guarded.port) as client:
        answer = await client.upgrade(path, headers)
        assert answer.headers.get("sec-websocket-protocol") in {None, "presence.v1.json"}
        assert (client.welcome["user"], client.welcome["info"]) == ("alice", {"name": "Alice"})


async def test_the_first_place_counts_and_what_a_client_says_of_itself_does_not(guarded: Node) -> None:
    path = f"/ws?token={good(sub='query')}&user=root&info=%7B%22admin%22%3Atrue%7D"
    async with speaking(guarded.port, path, bearing(good(sub="header"))) as client:
        assert (client.welcome["user"], client.welcome["info"]) == ("header", {})


BAD = {
    "missing": {},
    "empty": {"Authorization": "Bearer "},
    "forged": bearing(good()[:-3] + "AAA"),
    "unsigned": bearing(f"{part(alg='none')}.{part(sub='root', exp=4_000_000_000, aud='chat')}."),
    "expired": bearing(good(exp=1_000_000_000)),
    "not yet": bearing(good(nbf=3_900_000_000)),
    "of another audience": bearing(good(aud="other")),
    "of another algorithm": bearing(good(algorithm="HS512")),
    "oversized": bearing(good(info={"n": "x" * 3_500})),
    "repeated": {"Sec-WebSocket-Protocol": f"bearer.{good()}, bearer.{good()}"},
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_token_is_401_and_one_line_without_it(guarded: Node, kind: str) -> None:
    headers = BAD[kind]
    before = len(refusals(guarded))
    answer = await asked(guarded, headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    await until(lambda: len(refusals(guarded)) > before)
    (line,) = refusals(guarded)[before:]
    assert (line["status"], line["address"]) == (401, "127.0.0.1")
    for text in headers.values():
        for word in text.replace(",", " ").split():
            body = word.removeprefix("bearer.")
            hidden = [piece for piece in (body, *body.split(".")) if len(piece) > 10]
            assert not any(piece in guarded.log or piece.encode() in answer.body for piece in hidden)


async def test_a_token_in_two_headers_or_twice_in_the_query_is_refused(guarded: Node) -> None:
    text = good()
    assert (await asked(guarded, f"/ws?token={text}&token={text}")).status == 401
    async with RawClient(guarded.port) as client:
        lines = [f"{name}: {value}" for name, value in UPGRADE.items()]
        lines += [f"Authorization: Bearer {text}"] * 2
        await client.send(("GET /ws HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        assert (await client.respond()).status == 401


async def test_a_token_longer_than_a_line_is_refused_before_it_is_read(guarded: Node) -> None:
    answer = await asked(guarded, headers=bearing("x" * LINE_MAX))
    assert answer.status == 431


async def test_the_demo_page_is_off(guarded: Node) -> None:
    async with RawClient(guarded.port) as client:
        assert (await client.ask("/")).status == 404
    assert "demo page" not in guarded.log


async def test_the_same_token_lets_in_every_tab(guarded: Node) -> None:
    text = good()
    async with (
        speaking(guarded.port, "/ws", bearing(text)) as one,
        speaking(guarded.port, "/ws", bearing(text)) as two,
    ):
        assert one.cid != two.cid


async def test_a_resume_token_is_good_for_the_same_user_only(guarded: Node) -> None:
    async with speaking(guarded.port, "/ws", bearing(good())) as client:
        cid, resume = client.cid, client.welcome["resume"]
    path = f"/ws?resume={resume}"
    async with speaking(guarded.port, path, bearing(good(sub="mallory"))) as other:
        assert (other.welcome["resumed"], other.cid == cid) == (False, False)
    assert (await asked(guarded, path)).status == 401
    async with speaking(guarded.port, path, bearing(good())) as again:
        assert (again.welcome["resumed"], again.cid) == (True, cid)


async def test_a_token_that_ends_ends_its_connection(guarded: Node) -> None:
    async with speaking(guarded.port, "/ws", bearing(good())) as client:
        now_s = client.welcome["time"] / 1_000
    async with speaking(guarded.port, "/ws", bearing(good(exp=now_s + 4))) as client:
        warning = await client.hear()
        assert (warning["t"], warning["code"]) == ("error", "token_expired")
        ending = await client.ending()
        assert (ending.code, ending.bye and ending.bye["code"]) == (4009, 4009)


# --- origins ---


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "chat.example", 101),
        ("https://chat.example", "chat.example", 101),
        ("http://chat.example", "chat.example", 101),
        ("HTTPS://Chat.Example", "chat.example:443", 101),
        ("http://chat.example:8080", "chat.example:8080", 101),
        ("https://chat.example:8443", "chat.example", 403),
        ("https://evil.example", "chat.example", 403),
        ("https://chat.example.evil.example", "chat.example", 403),
        ("https://evilchat.example", "chat.example", 403),
        ("null", "chat.example", 403),
        ("https://[", "chat.example", 403),
        ("https://chat.example:99999", "chat.example", 403),
    ],
)
async def test_with_authentication_pages_of_the_same_host_may_connect(
    guarded: Node, origin: str | None, host: str, status: int
) -> None:
    answer = await asked(guarded, headers=bearing(good()) | {"Host": host, "Origin": origin})
    assert answer.status == status


async def test_a_list_of_origins_is_the_list(tmp_path: Path) -> None:
    flags = ("--auth.mode", "jwt", "--auth.secret", SECRET, "--server.origins", ORIGIN)
    async with Node(tmp_path, *flags) as node:
        for origin, host, status in (
            (ORIGIN, "chat.example", 101),
            ("https://chat.example", "chat.example", 403),
            (None, "chat.example", 101),
        ):
            headers = bearing(token()) | {"Host": host, "Origin": origin}
            assert (await asked(node, headers=headers)).status == status


# --- changes while running ---


async def test_secrets_rotate_on_sighup_all_or_none(tmp_path: Path) -> None:
    first, second = "the first secret, long enough to be one", "the second secret, long enough to be one"
    secret, older = tmp_path / "secret", tmp_path / "older"
    key = tmp_path / "key"
    config = tmp_path / "server.toml"
    config.write_text(
        f'[auth]\nmode = "jwt"\nsecret_file = "{secret}"\nsecrets_file = "{older}"\n[api]\nkey_file = "{key}"\n'
    )
    secret.write_text(first)
    older.write_text("")
    key.write_text("one key")

    async def again(node: Node, times: int) -> None:
        node.signal(signal.SIGHUP)
        await until(lambda: node.log.count("read again") == times, lambda: node.log)

    async with Node(tmp_path, "--config", str(config)) as node:
        by_first = token(headers={"n": 1}, key=first)
        by_second = token(headers={"n": 2}, key=second)

        async def statuses() -> list[int]:
            return [(await asked(node, headers=bearing(text))).status for text in (by_first, by_second)]

        async with speaking(node.port, "/ws", bearing(by_first)) as client:
            assert await statuses() == [101, 401]
            older.write_text(first + "\n")
            secret.write_text(second + "\n")
            await again(node, 1)
            assert await statuses() == [101, 101]
            older.write_text("")
            await again(node, 2)
            assert await statuses() == [401, 101]
            secret.write_text("")
            node.signal(signal.SIGHUP)
            await until(lambda: "the old ones stay" in node.log, lambda: node.log)
            assert await statuses() == [401, 101]
            assert (await client.request(t="ping", id=1))["t"] == "pong"
        assert first not in node.log
        assert second not in node.log


async def test_an_api_key_rotates_on_sighup(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one key")
    async with Node(tmp_path, "--api.key_file", str(key)) as node:

        async def status(text: str) -> int:
            async with await anyio.connect_tcp("127.0.0.1", node.api_port) as stream:
                await stream.send(
                    f"GET /v1/rooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
                )
                return int((await stream.receive()).split()[1])

        for times, (keys, expected) in enumerate(
            {"one key": [200, 401], "another\none key\n": [200, 200], "another": [401, 200]}.items()
        ):
            key.write_text(keys)
            node.signal(signal.SIGHUP)
            await until(lambda: node.log.count("read again") > times, lambda: node.log)  # noqa: B023 - awaited here
            assert [await status("one key"), await status("another")] == expected
