"""The browser client brings fresh credentials by itself."""

import time
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.support.node import Node
from tests.support.signing import SECRET, token
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

LIFE_S = 4


async def test_a_token_function_is_asked_before_each_end_and_failure_is_no_end(
    browser: Browser, tmp_path: Path
) -> None:
    given = 0

    def fresh() -> str:
        nonlocal given
        given += 1
        if given == 1:
            raise RuntimeError("the backend is not there yet")
        return token(sub="ada", exp=time.time() + LIFE_S)

    async with Node(tmp_path, "--auth.mode", "jwt", "--auth.secret", SECRET) as node:
        page = await browser.new_page()
        await page.expose_function("fresh", fresh)
        await page.goto(f"{node.http_url}/healthz")
        await page.evaluate(
            """async () => {
                const { connect } = await import("/static/presence.js");
                window.seen = [];
                window.client = connect({ token: () => window.fresh() });
                client.on("state", ({ state }) => seen.push(state));
                client.on("error", (error) => seen.push(`error ${error.code ?? error.message}`));
                await client.room("lobby").join();
            }"""
        )
        cid = await page.evaluate("client.welcome.cid")
        await eventually(lambda: page.evaluate("client.state"), lambda _: given >= 5)
        assert await page.evaluate("[client.state, client.welcome.cid, client.welcome.user]") == [
            "connected",
            cid,
            "ada",
        ]
        seen = await page.evaluate("seen")
        assert [state for state in seen if not state.startswith("error")] == [
            "waiting",
            "connecting",
            "connected",
        ]
        assert len(seen) == 4  # and the one error, of the first time
        await page.evaluate("client.close()")
        assert await page.evaluate("client.state") == "stopped"
        await page.close()
