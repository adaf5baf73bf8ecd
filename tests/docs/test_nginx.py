"""The example for nginx, with the real nginx, the real server and something to protect."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.docs.pages import read
from tests.support.api import call
from tests.support.daemon import free_port
from tests.support.nginx import Nginx
from tests.support.node import Node

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(anyio_backend: str) -> AsyncIterator[str]:
    """What is protected, and where it is."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.method} {await request.text()}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"{host}:{port}"
    await runner.cleanup()


async def test_requests_are_let_through_refused_and_let_through_without_a_limiter(
    tmp_path: Path, service: str
) -> None:
    port = free_port()
    async with Node(tmp_path) as node:
        limits = node.api_url.removeprefix("http://")
        text = read("docs/examples/nginx-throttle.conf")
        for written, real in (
            ("127.0.0.1:8081", limits),
            ("127.0.0.1:9000", service),
            ("127.0.0.1:8088", f"127.0.0.1:{port}"),
        ):
            assert text.count(written) == 1
            text = text.replace(written, real)
        with Nginx(text, port) as nginx:
            url = f"http://127.0.0.1:{nginx.port}/a/b?c=d"
            async with aiohttp.ClientSession() as session:
                # Without a rule of that name the limiter answers 404, and nobody is kept out.
                async with session.post(url, data="x") as response:
                    assert (response.status, await response.text()) == (200, "POST x")
                await call(node, "PUT", "/v1/throttle/rules/web", {"limit": "2/600s"})
                for left in (1, 0):
                    async with session.post(
                        url, data="a body", headers={"X-Throttle-Key": "mine"}
                    ) as response:
                        assert (response.status, await response.text()) == (200, "POST a body")
                        assert f"r={left};" in response.headers["RateLimit"]
                        assert '"web";q=2;w=600' in response.headers["RateLimit-Policy"]
                async with session.get(url, headers={"X-Throttle-Key": "another"}) as response:
                    assert response.status == 429
                    assert 0 < int(response.headers["Retry-After"]) <= 600
                    assert "r=0;" in response.headers["RateLimit"]
                await node.stop()
                async with session.get(url) as response:
                    assert (response.status, await response.text()) == (200, "GET ")
                await node.start()
