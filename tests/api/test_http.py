"""The internal port as HTTP: who is let in, what is refused, and what is written down of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from presence_server.api.app import BODY_BYTES_MAX
from tests.api.conftest import KEY
from tests.support.api import call
from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

PROBLEM = "application/problem+json"


# --- who ---


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-Api-Key": KEY},
    ],
)
async def test_without_the_key_nothing_is_answered(keyed: Node, headers: dict[str, str]) -> None:
    for path in ("/v1/rooms", "/v1/nothing", "/v1/users/status"):
        answer = await call(keyed, "GET", path, headers=headers)
        assert (answer.status, answer.headers["Content-Type"]) == (401, PROBLEM)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in json.dumps(answer.body)


async def test_with_the_key_everything_is(keyed: Node) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await call(keyed, "GET", "/v1/rooms", headers={"Authorization": f"{scheme} {KEY}"})
        assert answer.status == 200


@pytest.mark.parametrize("key", ["к", "a\u0085", "a\u00e0", "a\u00a0b\u2028c", "a b"])
async def test_a_key_may_have_any_character(tmp_path: Path, key: str) -> None:
    (tmp_path / "keys").write_text(f"{key}\r\nanother\n", encoding="utf-8", newline="")
    async with Node(tmp_path, "--api.key_file", str(tmp_path / "keys")) as node:
        for given, status in (
            (key, 200),
            (f" \t{key}\t", 200),
            ("another", 200),
            ("a", 401),
            (f"{key}\u00a0", 401),
        ):
            async with RawClient(node.api_port) as client:
                response = await client.ask("/v1/rooms", {"Authorization": f"Bearer {given}"})
                assert response.status == status, given


async def test_probes_and_metrics_need_no_key(keyed: Node) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await call(keyed, "GET", path)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:x", "evil.example:8081", "127.0.0.1.evil.example", "", "10.0.0.1"]
)
async def test_without_a_key_no_web_page_comes_in_by_a_name_of_its_own(node: Node, host: str) -> None:
    answer = await call(node, "GET", "/v1/rooms", headers={"Host": host})
    assert answer.status == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8081", "127.0.0.1", "127.9.9.9:1", "[::1]:8081", "[::1]"]
)
async def test_without_a_key_names_of_this_machine_are_answered_to(node: Node, host: str) -> None:
    assert (await call(node, "GET", "/v1/rooms", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "http://[",
        "http://localhost:3000",
        "http://localhost",
        "HOST",
        "ftp://HOST",
        "http://HOST0",
    ],
)
async def test_without_a_key_no_page_but_the_dashboard_can_send_what_needs_no_permission(
    node: Node, origin: str
) -> None:
    headers = {"Origin": origin.replace("HOST", node.api_url.removeprefix("http://"))}
    answer = await call(node, "POST", "/v1/users/bob/disconnect", headers=headers)
    assert (answer.status, answer.body["detail"]) == (
        403,
        "without api.key no web page but the dashboard may ask this port",
    )


@pytest.mark.parametrize(
    ("method", "site", "mode", "status"),
    [
        ("POST", "same-origin", "cors", 200),
        ("POST", "none", "navigate", 200),
        ("POST", "cross-site", "no-cors", 403),
        ("POST", "same-site", "no-cors", 403),
        ("POST", "cross-site", "navigate", 403),
        ("GET", "cross-site", "no-cors", 403),
        ("GET", "cross-site", "navigate", 200),
    ],
)
async def test_without_a_key_other_pages_can_link_here_and_do_nothing_else(
    node: Node, method: str, site: str, mode: str, status: int
) -> None:
    path = "/v1/users/bob/disconnect" if method == "POST" else "/v1/rooms"
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert (await call(node, method, path, headers=headers)).status == status


async def test_without_a_key_the_dashboard_is_answered_to_by_every_name_of_this_machine(node: Node) -> None:
    port = node.api_url.rpartition(":")[2]
    for host, origin in (
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
        ("localhost:9000", "http://localhost:9000"),  # a tunnel
        ("[::1]:9000", "http://[::1]:9000"),
        ("LOCALHOST:80", "http://localhost"),
        ("localhost", "https://localhost:443"),
    ):
        headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
        assert (await call(node, "POST", "/v1/users/bob/disconnect", headers=headers)).status == 200


async def test_with_a_key_any_name_will_do(keyed: Node) -> None:
    headers = {"Host": "presence.internal", "Authorization": f"Bearer {KEY}"}
    assert (await call(keyed, "GET", "/v1/rooms", headers=headers)).status == 200


# --- what is refused ---


async def refused(node: Node, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Return a refusal's status and detail, after looking at its form."""
    answer = await call(node, method, path, **options)
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.body.keys() >= {"type", "title", "status", "detail"}
    assert answer.body["status"] == answer.status
    return answer.status, answer.body["detail"]


async def test_what_is_not_there_and_what_cannot_be_done_there(node: Node) -> None:
    assert (await refused(node, "GET", "/v1/nothing"))[0] == 404
    assert (await refused(node, "GET", "/nothing"))[0] == 404
    assert (await refused(node, "GET", "/v1/rooms/"))[0] == 404
    assert (await refused(node, "GET", "/v1/rooms//members"))[0] == 404
    answer = await call(node, "PATCH", "/v1/rooms/lobby/members/x")
    assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, PUT")
    assert (await refused(node, "POST", "/healthz"))[0] == 405


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", 400, "in the body: Input data was truncated"),
        (b"{", 400, "in the body: Input data was truncated"),
        (b"[]", 400, "in the body: Expected `object`, got `array`"),
        (b"{}", 400, "in the body: Object missing required field `data`"),
        (b'{"data":1,"dta":2}', 400, "in the body: Object contains unknown field `dta`"),
        (b'{"data":NaN}', 400, "in the body: JSON is malformed"),
        (b'{"data":"\xff"}', 400, "in the body: "),
        (b'{"data":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400, "in the body: "),
        (b'{"data":' + b"[" * 40 + b"]" * 40 + b"}", 422, "in the body: data: "),
        (b'{"data":' + b"9" * 30 + b"}", 422, "in the body: data: an integer does not fit 64 bits"),
        (json.dumps({"data": "x" * 16_384}).encode(), 413, "data is 16386 bytes, more than 16384"),
        (b" " * (BODY_BYTES_MAX + 1), 413, f"the body is longer than {BODY_BYTES_MAX} bytes"),
    ],
)
async def test_a_body_that_cannot_be_used(node: Node, data: bytes, status: int, detail: str) -> None:
    headers = {"Content-Type": "application/json"}
    found = await refused(node, "POST", "/v1/rooms/lobby/messages", data=data, headers=headers)
    assert found[0] == status
    assert found[1].startswith(detail)


async def test_a_body_is_json_and_says_so(node: Node) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        options: dict[str, Any] = {"data": b'{"data":1}', "headers": {"Content-Type": kind}}
        assert (await refused(node, "POST", "/v1/rooms/lobby/messages", **options))[0] == 415
    options = {"data": b'{"data":1}', "headers": {"Content-Type": "Application/JSON; charset=utf-8"}}
    assert (await call(node, "POST", "/v1/rooms/lobby/messages", **options)).status == 200


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("limit=0", "in the query: Expected `int` >= 1"),
        ("limit=1001", "in the query: Expected `int` <= 1000"),
        ("limit=ten", "in the query: Expected `int`"),
        ("limt=1", "in the query: Object contains unknown field `limt`"),
        ("limit=1&limit=2", "limit is in the query more than once"),
        ("limit", "the query cannot be read"),
        ("prefix=%ff", "the query cannot be read"),
        ("&".join(f"a{n}=1" for n in range(40)), "the query cannot be read"),
    ],
)
async def test_a_query_that_cannot_be_used(node: Node, query: str, detail: str) -> None:
    status, found = await refused(node, "GET", f"/v1/rooms?{query}")
    assert (status, found[: len(detail)]) == (400, detail)


@pytest.mark.parametrize("room", ["a%20b", "%F0%9F%9A%80", "a%0A", "x" * 165, "%ff"])
async def test_a_room_that_can_be_none_is_refused_by_every_call(node: Node, room: str) -> None:
    body = {"data": 1}
    calls = (
        ("GET", "", None),
        ("GET", "/members", None),
        ("POST", "/messages", body),
        ("DELETE", "/members/x", None),
    )
    for method, rest, sent in calls:
        assert (await refused(node, method, f"/v1/rooms/{room}{rest}", body=sent))[0] == 400


@pytest.mark.parametrize("user", ["a%0A", "%00", "x" * 129, "%C2%85"])
async def test_a_user_that_can_be_none_is_refused(node: Node, user: str) -> None:
    assert (await refused(node, "GET", f"/v1/users/{user}"))[0] == 400


async def test_what_has_a_slash_in_its_name_is_found(node: Node) -> None:
    async with speaking(node.port, "/ws?user=a%2Fb") as client:
        await client.request(t="join", room="x/y", id=1)
        assert (await call(node, "GET", "/v1/rooms/x%2Fy")).body["count"] == 1
        assert (await call(node, "GET", "/v1/users/a%2Fb")).body["online"]
        assert (await call(node, "GET", "/v1/rooms/x/y")).status == 404


async def test_a_user_may_be_called_status(node: Node) -> None:
    assert (await call(node, "GET", "/v1/users/status")).body["user"] == "status"
    assert (await call(node, "POST", "/v1/users/status", {"users": ["status"]})).body["users"].keys() == {
        "status"
    }


async def test_too_many_at_once_are_refused(node: Node) -> None:
    users = [f"u{n}" for n in range(1_001)]
    status, detail = await refused(node, "POST", "/v1/users/status", body={"users": users})
    assert (status, detail) == (400, "in the body: Expected `array` of length <= 1000 - at `$.users`")


# --- what rooms have ---


async def test_a_backend_is_held_to_what_holds_a_room_together(tmp_path: Path) -> None:
    config = tmp_path / "rooms.toml"
    config.write_text('[[rooms]]\npattern = "small"\nmembers_max = 1\nallow = ["watch"]\n')
    async with Node(tmp_path, "--config", str(config)) as node:
        one = await call(node, "PUT", "/v1/rooms/small/members/a", {"user": "a"})
        two = await call(node, "PUT", "/v1/rooms/small/members/b", {"user": "b"})
        assert (one.status, two.status, two.body["type"]) == (201, 409, "urn:presence-server:room_full")
        long = {"user": "a", "state": {"n": "x" * 4_096}}
        assert (await call(node, "PUT", "/v1/rooms/other/members/a", long)).status == 413


async def test_pages_of_a_room_hold_everybody_once(node: Node) -> None:
    for n in range(7):
        await call(node, "PUT", f"/v1/rooms/paged/members/bot-{n}", {"user": f"u{n % 3}"})
    assert (await call(node, "GET", "/v1/rooms/paged")).body == {"room": "paged", "count": 7, "users": 3}
    cids: list[str] = []
    cursor = ""
    while True:
        page = (await call(node, "GET", f"/v1/rooms/paged/members?limit=3{cursor}")).body
        cids += [member["cid"] for member in page["members"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert cids == [f"bot-{n}" for n in range(7)]


# --- what is written down ---


async def test_every_answer_has_the_id_of_its_request(node: Node) -> None:
    given = await call(node, "DELETE", "/v1/rooms/lobby/members/nobody", headers={"X-Request-Id": "order-66"})
    assert given.headers["X-Request-Id"] == "order-66"
    for odd in ("a b", "x" * 65, ""):
        made = await call(node, "GET", "/v1/rooms", headers={"X-Request-Id": odd})
        assert made.headers["X-Request-Id"] not in {odd, "order-66"}
    await until(lambda: "order-66" in node.log)
    lines = [json.loads(line) for line in node.log.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "order-66"]
    assert (line["event"], line["method"], line["status"]) == ("api call", "DELETE", 404)
    assert line["path"] == "/v1/rooms/{room}/members/{cid}"


async def test_the_log_holds_no_token_and_no_body(tmp_path: Path) -> None:
    word = "quicksilver"
    async with Node(tmp_path, "--auth.mode", "session", "--api.key", KEY) as node:
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"user": "ann", "info": {"secret": word}}
        token = (await call(node, "POST", "/v1/sessions", body, headers=headers)).body["token"]
        path = f"/v1/sessions/{token}"
        await call(node, "GET", path, headers=headers)
        await call(node, "PUT", path, body, headers=headers | {"If-Match": '"7"'})
        await call(node, "POST", f"{path}/{word}", headers=headers)
        await call(node, "POST", "/v1/rooms/lobby/messages", {"data": {"n": word}}, headers=headers)
        await call(node, "POST", "/v1/users/ann/messages", {"data": word * 10_000}, headers=headers)
        await call(
            node, "POST", f"/v1/throttle/hit?token={word}", {"rule": word, "key": word}, headers=headers
        )
        async with speaking(node.port, "/ws", {"Authorization": f"Bearer {token}"}) as ann:
            await ann.request(t="join", room="lobby", state={"n": word}, id=1)
            await ann.request(t="publish", room="lobby", data=word, id=2)
            await ann.request(t="auth", token=word, id=3)
            await ann.say(t=word)
        for wrong in (f"/ws?token={word}", f"/{word}?token={token}", f"/ws?token={token}&token={word}"):
            async with RawClient(node.port) as client:
                await client.ask(wrong)
        assert (await call(node, "DELETE", path, headers=headers)).status == 204
        await until(lambda: node.log.count('"api call"') >= 3)
    for hidden in (token, word, KEY):
        assert hidden not in node.log
