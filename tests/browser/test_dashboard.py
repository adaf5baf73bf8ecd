"""The operations dashboard in a real Chromium: what it shows, what it can do, and for whom."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from presence_server.client import ClientError, connect
from tests.api.conftest import KEY
from tests.browser.test_page import CONTRAST_AA, serious_issues
from tests.browser.visitor import DEADLINE_MS
from tests.support.api import call
from tests.support.node import PROJECT, Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

UPLOT_SHA256 = {
    "uplot-1.6.32.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot-1.6.32.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
HOSTILE = "<img src=x onerror=document.title='taken'>"
TTL_S = 3.0
QUICK = ("--presence.ttl_ms", "3000", "--presence.heartbeat_ms", "1000")
EVERY_LEVEL = """() => {
    for (const level of ["good", "warning", "critical", "wait"]) {
        for (const tag of ["pill", "alert"]) {
            const shown = document.querySelector("#main").appendChild(document.createElement("p"));
            shown.className = tag;
            shown.dataset.level = level;
            shown.innerHTML = `${level}<b>${level}</b> <span class="quiet">others</span>`;
        }
    }
    for (const state of ["serving", "rejoining", "draining", "isolated", "silent", "lost", "stopped"]) {
        const shown = document.querySelector("#nodes-title").appendChild(document.createElement("span"));
        shown.className = "state";
        shown.dataset.state = shown.textContent = state;
    }
}"""
"""Puts a piece of each colour on the page."""
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const pixel = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const found = {};
    for (const node of document.querySelectorAll("body *:not(script)")) {
        const says = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        if (!says || !node.checkVisibility() || node.closest(".uplot, option")) continue;
        let behind = node;
        while (behind && pixel(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
        const [dark, light] = [getComputedStyle(node).color, getComputedStyle(behind ?? document.body).backgroundColor]
            .map(colour => luminance(pixel(colour))).sort((a, b) => a - b);
        const name = `${node.tagName} ${node.className} ${node.textContent.trim().slice(0, 30)}`;
        found[name] = (light + 0.05) / (dark + 0.05);
    }
    return found;
}"""


@asynccontextmanager
async def dashboard(
    browser: Browser, node: Node, key: str = "", scheme: str = "light", script: str = ""
) -> AsyncIterator[Page]:
    """Open the dashboard of a node, unlock it if there is a key; it must not complain but about refused calls.

    `script` runs in the page before its own.
    """
    complaints: list[str] = []
    context = await browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    await context.add_init_script(script)
    page = await context.new_page()
    page.set_default_timeout(DEADLINE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text
            else None
        ),
    )
    await page.goto(f"{node.api_url}/")
    if key:
        await page.fill("#key", key)
        await page.click("#unlock button")
    yield page
    await context.close()
    assert complaints == []


@pytest.fixture(scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One that needs a key."""
    async with Node(tmp_path_factory.mktemp("keyed"), "--api.key", KEY) as node:
        yield node


def test_the_charts_library_is_the_one_that_its_name_says() -> None:
    folder = PROJECT / "presence_server" / "static" / "ops"
    for name, digest in UPLOT_SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    assert "(v1.6.32)" in (folder / "uplot-1.6.32.min.js").read_text()[:100]
    assert "MIT License" in (folder / "uplot-LICENSE.txt").read_text()


async def test_its_files_hold_nothing_and_load_nothing_from_elsewhere(keyed: Node, node: Node) -> None:
    page = await call(keyed, "GET", "/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    etag = page.headers["ETag"]
    assert (await call(keyed, "GET", "/", headers={"If-None-Match": etag})).status == 304
    assert (await call(keyed, "POST", "/")).status == 405
    assert (await call(keyed, "GET", "/ops/nothing.js")).status == 404
    assert (await call(keyed, "GET", "/ops/../app.py")).status == 404
    script = await call(keyed, "GET", "/ops/main.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    for headers in ({"Host": "rebound.example"}, {"Origin": "https://evil.example"}):
        assert (await call(node, "GET", "/", headers=headers)).status == 403


async def test_a_wrong_key_shows_nothing_and_the_right_one_kicks_and_bans(
    browser: Browser, keyed: Node
) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(ClientError, match="4003"))
        client = await stack.enter_async_context(connect(keyed.ws_url, user=HOSTILE))
        await client.join("lobby", state={"note": HOSTILE})
        page = await stack.enter_async_context(dashboard(browser, keyed, "a wrong key"))
        await expect(page.locator("#unlock-problem")).to_have_text("That is not the key.")
        await expect(page.locator("#dashboard")).to_be_hidden()
        assert await page.locator("#rooms tbody tr").count() == 0
        await page.fill("#key", KEY)
        await page.press("#key", "Enter")
        await page.click("#rooms >> text=lobby")
        assert await page.input_value("#key") == ""
        row = page.locator("#panel tbody tr")
        await expect(row).to_contain_text(HOSTILE)
        await row.locator("button.link").click()
        await page.click("text=Disconnect or ban")
        await page.select_option("#ban-for", "3600000")
        await page.click("#confirm-do")
        await expect(page.locator("#said")).to_contain_text("1 connection closed, banned for 1 h")
        await until(lambda: not client.connected)
        await page.click("#panel-close")
        await expect(page.locator("#bans tbody tr")).to_contain_text(HOSTILE)
        await page.click("#bans >> text=Lift")
        await page.click("#confirm-do")
        await expect(page.locator("#bans tbody")).to_have_text("Nobody is banned.")
        assert await page.title() == "Operations · presence-server"
        assert (await call(keyed, "GET", "/v1/bans", headers={"Authorization": f"Bearer {KEY}"})).body[
            "bans"
        ] == []
        stored = await page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert KEY not in stored


async def test_a_key_beyond_latin_1_unlocks(browser: Browser, tmp_path: Path) -> None:
    key = "ключ-" * 10
    async with Node(tmp_path, "--api.key", key) as node, dashboard(browser, node, key) as page:
        await expect(page.locator("#nodes tbody")).to_contain_text(node.id)


async def test_who_is_refused_is_shown_and_unblocked(browser: Browser, tmp_path: Path) -> None:
    async with (
        Node(tmp_path, "--throttle.publishes", "1/600s") as node,
        connect(node.ws_url, user="ann") as client,
        dashboard(browser, node) as page,
    ):
        room = await client.join("lobby")
        await room.publish(1)
        with pytest.raises(ClientError, match="throttled"):
            await room.publish(2)
        await expect(page.locator("#throttled tbody tr")).to_contain_text("ann")
        await page.click("#throttled >> text=Unblock")
        await page.click("#confirm-do")
        await expect(page.locator("#said")).to_have_text("ann starts anew under publishes")
        await room.publish(3)


async def test_a_user_and_a_room_that_fit_no_path_are_found_and_closed(browser: Browser, node: Node) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(ClientError, match="4003"))
        client = await stack.enter_async_context(connect(node.ws_url, user=".."))
        page = await stack.enter_async_context(dashboard(browser, node))
        await client.join("..")
        await page.fill("#query", "..")
        await page.press("#query", "Enter")
        await expect(page.locator("#panel-body")).to_contain_text(".. is online with 1 connection.")
        await expect(page.locator("#panel-body")).to_contain_text("cannot send this name in a path")
        await (
            page.locator("#panel-body h3:has-text('Rooms') ~ p button").get_by_text("..", exact=True).click()
        )
        await expect(page.locator("#panel-body")).to_contain_text("1 member, 1 user")
        await page.locator("#panel tbody button.link").click()
        await page.click("#panel >> text=Close…")
        await page.click("#confirm-do")
        await expect(page.locator("#said")).to_contain_text("is closed")
        await until(lambda: not client.connected)


async def test_without_storage_it_works_and_the_theme_lasts_until_it_is_closed(
    browser: Browser, node: Node
) -> None:
    forbidden = """Object.defineProperty(window, "localStorage", {
        get() { throw new DOMException("forbidden", "SecurityError"); },
    })"""
    async with dashboard(browser, node, script=forbidden) as page:
        await expect(page.locator("#nodes tbody")).to_contain_text(node.id)
        await page.click("#theme")
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await page.click("#theme")
        await expect(page.locator("html")).to_have_attribute("data-theme", "light")


async def test_a_killed_node_is_shown_as_lost(browser: Browser, tmp_path: Path) -> None:
    with RedisServer("valkey") as store:
        async with Node(tmp_path, "--redis.url", store.url, *QUICK) as node:
            other = Node(tmp_path, "--redis.url", store.url, *QUICK)
            await other.start()
            async with dashboard(browser, node) as page:
                row = page.locator("#nodes tbody tr").filter(has_text=other.id)
                await expect(row.locator(".state")).to_have_text("serving")
                other.kill()
                await expect(row.locator(".state")).to_have_text("lost")
                await expect(page.locator("#nodes-count")).to_have_text("")
            await other.wait()


async def test_a_node_that_does_not_answer_leaves_what_was_shown_marked_as_old(
    browser: Browser, tmp_path: Path
) -> None:
    node = Node(tmp_path)
    await node.start()
    async with dashboard(browser, node) as page:
        await expect(page.locator("#nodes tbody")).to_contain_text(node.id)
        node.kill()
        await node.wait()
        await expect(page.locator("#status")).to_contain_text("cannot be reached")
        await expect(page.locator("#dashboard.old #nodes tbody")).to_contain_text(node.id)
        await node.start()
        await expect(page.locator("#asked")).to_have_text(node.id)
        await expect(page.locator("#dashboard.old")).to_have_count(0)
        await node.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read_and_everything_reached_from_the_keyboard(
    browser: Browser, node: Node, scheme: str
) -> None:
    async with connect(node.ws_url, user="ann") as client, dashboard(browser, node, scheme=scheme) as page:
        room = f"room-{scheme}"
        await client.join(room)
        await page.locator("#rooms").get_by_text(room).focus()
        await expect(page.locator(".tile canvas")).to_have_count(5)
        await page.evaluate(EVERY_LEVEL)
        found: dict[str, float] = await page.evaluate(CONTRASTS)
        assert len(found) > 50
        assert {what: round(contrast, 2) for what, contrast in found.items() if contrast < CONTRAST_AA} == {}
        await page.keyboard.press("Enter")
        await expect(page.locator("#panel tbody")).to_contain_text("ann")
        await page.keyboard.press("Escape")
        await expect(page.locator("#panel")).to_be_hidden()
        assert await page.evaluate("document.activeElement.textContent") == room
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.wait_for_function("document.documentElement.scrollWidth === 390")


async def test_axe_finds_no_serious_issue(browser: Browser, node: Node) -> None:
    async with connect(node.ws_url, user="ann") as client, dashboard(browser, node) as page:
        await client.join("axe")
        await expect(page.locator("#rooms")).to_contain_text("axe")
        assert await serious_issues(page) == []
        await page.click("#rooms >> text=axe")
        await expect(page.locator("#panel tbody")).to_contain_text("ann")
        assert await serious_issues(page) == []
