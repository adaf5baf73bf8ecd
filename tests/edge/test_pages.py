"""The client port speaks plain HTTP too."""

import gzip
import json
from pathlib import Path

import aiohttp
import pytest

from tests.edge.conftest import UNTHROTTLED
from tests.support.node import Node
from tests.support.rawclient import RawClient, Response, request

pytestmark = pytest.mark.anyio

HOST = {"Host": "presence.test"}


async def asked(node: Node, path: str, method: str = "GET", **headers: str) -> Response:
    async with RawClient(node.port) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.ask(path, named, method=method, base=HOST)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?name=alice", "text/html; charset=utf-8"),
        ("/healthz", "application/json"),
        ("/static/presence-1.js", "text/javascript; charset=utf-8"),
        ("/static/demo/demo.css", "text/css; charset=utf-8"),
        ("/static/demo/inter.woff2", "font/woff2"),
        ("/static/favicon.svg", "image/svg+xml"),
    ],
)
async def test_pages_are_served_whole_and_only_as_what_they_are(
    node: Node, path: str, content_type: str
) -> None:
    response = await asked(node, path)
    assert (response.status, response.headers["content-type"]) == (200, content_type)
    assert len(response.body) == int(response.headers["content-length"]) > 0
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["connection"] == "close"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


async def test_a_head_is_a_get_without_its_body(node: Node) -> None:
    for path in ("/", "/healthz", "/static/presence-1.js"):
        whole, head = await asked(node, path), await asked(node, path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}


async def test_a_page_that_has_not_changed_is_a_304(node: Node) -> None:
    first = await asked(node, "/static/presence-1.js")
    again = await asked(node, "/static/presence-1.js", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await asked(node, "/static/presence-1.js", If_None_Match='"other"')).status == 200


@pytest.mark.parametrize("tags", ['"other", {}', "W/{}", "*"])
async def test_every_form_of_if_none_match_is_understood(node: Node, tags: str) -> None:
    etag = (await asked(node, "/")).headers["etag"]
    assert (await asked(node, "/", If_None_Match=tags.format(etag))).status == 304


@pytest.mark.parametrize("path", ["/static/presence-1.js", "/static/presence-1.classic.js"])
async def test_pages_of_other_sites_may_load_the_browser_client_and_keep_it(node: Node, path: str) -> None:
    response = await asked(node, path, Origin="https://elsewhere.test")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["cache-control"].split(", ") == ["public", "max-age=86400", "immutable"]
    again = await asked(node, path, If_None_Match=response.headers["etag"])
    assert (again.status, again.headers["cache-control"]) == (304, response.headers["cache-control"])


async def test_the_pages_of_the_demo_are_asked_for_again_and_are_of_one_site(node: Node) -> None:
    for path in ("/", "/static/demo/main.js"):
        headers = (await asked(node, path)).headers
        assert headers["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("accepted", ["gzip", "br;q=1.0, GZIP;q=0.8, *;q=0.1", "deflate, *"])
async def test_a_page_is_compressed_for_who_takes_gzip(node: Node, accepted: str) -> None:
    for path in ("/static/presence-1.js", "/", "/static/demo/demo.css"):
        plain = await asked(node, path)
        short = await asked(node, path, Accept_Encoding=accepted)
        assert (short.headers["content-encoding"], short.headers["vary"]) == ("gzip", "Accept-Encoding")
        assert plain.headers["vary"] == "Accept-Encoding"
        assert gzip.decompress(short.body) == plain.body
        assert int(short.headers["content-length"]) == len(short.body) < len(plain.body)
        assert short.headers["etag"] != plain.headers["etag"]
        known = await asked(node, path, Accept_Encoding=accepted, If_None_Match=short.headers["etag"])
        assert (known.status, known.body) == (304, b"")


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "gzip; q=0.000, *", "*;q=0", "x-gzipped"])
async def test_a_page_is_sent_as_it_is_to_who_takes_no_gzip(node: Node, accepted: str) -> None:
    response = await asked(node, "/static/presence-1.js", Accept_Encoding=accepted)
    assert "content-encoding" not in response.headers
    assert len(response.body) == int(response.headers["content-length"])


async def test_a_health_check_is_not_compressed(node: Node) -> None:
    response = await asked(node, "/healthz", Accept_Encoding="gzip")
    assert (response.body, "vary" in response.headers) == (b'{"status":"ok"}', False)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/index.html",
        "/static/",
        "/static/index.html",
        "/static/demo/index.html",
        "/static/demo",
        "/static/ops/index.html",
        "/static/ops/main.js",
        "/static/nothing.js",
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//presence-1.js",
        "/v1/rooms",
        "/metrics",
        "/readyz",
        "http://other.test/nothing",
    ],
)
async def test_what_is_not_there_is_a_404(node: Node, path: str) -> None:
    assert (await asked(node, path)).problem["status"] == 404


async def test_pages_can_be_read_only(node: Node) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = await asked(node, "/healthz", method)
        assert (response.problem["status"], response.headers["allow"]) == (405, "GET, HEAD")
    assert (await asked(node, "/nothing", "POST")).problem["status"] == 404


async def test_a_websocket_begins_with_a_get(node: Node) -> None:
    async with RawClient(node.port) as client:
        response = await client.ask(method="POST")
    assert (response.problem["status"], response.headers["allow"]) == (405, "GET")


async def test_an_old_load_balancer_may_check_the_health_with_http_1_0(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        response = await client.respond()
    assert (response.status, json.loads(response.body)) == (200, {"status": "ok"})


async def test_a_websocket_over_http_1_0_is_refused(node: Node) -> None:
    async with RawClient(node.port) as client:
        assert (await client.ask(version="HTTP/1.0")).problem["status"] in {400, 426, 505}


async def test_a_client_that_ends_its_side_with_the_request_is_answered(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.send(request("/", base=HOST))
        client.end_writing()
        assert (await client.respond()).status == 200


async def test_one_request_a_connection_is_answered(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.send(request("/healthz", base=HOST) * 3)
        assert (await client.respond()).body == b'{"status":"ok"}'


async def test_a_common_http_client_reads_the_pages(node: Node) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"{node.http_url}/healthz") as response:
                assert await response.json() == {"status": "ok"}


async def test_the_demo_can_be_turned_off_and_the_rest_stays(tmp_path: Path) -> None:
    async with Node(tmp_path, *UNTHROTTLED, "--server.demo", "false") as node:
        assert (await asked(node, "/")).problem["status"] == 404
        assert (await asked(node, "/healthz")).status == 200
        assert (await asked(node, "/static/presence-1.js")).status == 200


async def test_the_demo_is_off_where_clients_need_credentials(tmp_path: Path) -> None:
    args = (*UNTHROTTLED, "--auth.mode", "jwt", "--auth.secret", "x" * 32)
    async with Node(tmp_path, *args) as node:
        assert (await asked(node, "/")).problem["status"] == 404
