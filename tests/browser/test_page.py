"""The page itself: what it may load and run, whether it can be read and used, how it looks on a phone."""

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.visitor import Visitors

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

AXE = Path(__file__).parents[2] / "clients" / "typescript" / "node_modules" / "axe-core" / "axe.min.js"
CONTRAST_AA = 4.5
COLOURS = 12
PHONE = {"width": 390, "height": 844}
SMALL = {"width": 320, "height": 568}

CONTRASTS = """count => {
    const luminance = ([r, g, b]) => {
        const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [x, y, z] = [r, g, b].map(c => linear(c / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const pixel = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const contrast = (a, b) => {
        const [dark, light] = [luminance(pixel(a)), luminance(pixel(b))].sort((x, y) => x - y);
        return (light + 0.05) / (dark + 0.05);
    };
    const made = (parent, tag, className) => {
        const element = document.createElement(tag);
        element.className = className;
        parent.append(element);
        return element;
    };
    const panel = getComputedStyle(document.querySelector(".chat")).backgroundColor;
    const found = {};
    for (let i = 0; i < count; i++) {
        const avatar = getComputedStyle(made(document.querySelector("#log"), "span", `avatar colour-${i}`));
        found[`avatar ${i}`] = contrast(avatar.color, avatar.backgroundColor);
        const faded = made(document.querySelector("#faces"), "span", `avatar faded colour-${i}`);
        const name = getComputedStyle(made(document.querySelector("#log"), "span", `name colour-${i}`));
        found[`name ${i}`] = contrast(name.color, panel);
        const note = made(document.querySelector("#notes"), "article", `note colour-${i}`);
        const author = getComputedStyle(made(note, "bdi", "author"));
        found[`note ${i}`] = contrast(author.color, getComputedStyle(note).backgroundColor);
        for (const element of [faded, note]) element.remove();
    }
    return found;
}"""


async def serious_issues(page: Page) -> list[str]:
    """Ask axe-core, which comes with the packages of the TypeScript client, what is wrong with the page."""
    if not AXE.exists():
        reason = f"NO AXE-CORE, ACCESSIBILITY IS NOT TESTED: {AXE} is not there; npm install makes it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    await page.evaluate(AXE.read_text())
    result: dict[str, Any] = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{issue['id']}: {issue['help']}: {node['html']}"
        for issue in result["violations"]
        if issue["impact"] in {"serious", "critical"}
        for node in issue["nodes"]
    ]


async def test_nothing_is_loaded_from_elsewhere_and_nothing_else_may_run(visitors: Visitors) -> None:
    tab = await visitors.arrive("Ada")
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    response = await tab.page.reload()
    await tab.is_connected()
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(visitors.http_url)] == []
    assert await tab.evaluate("document.fonts.load('16px Inter').then(fonts => fonts.length)") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_serious_issue_and_every_colour_can_be_read(
    visitors: Visitors, scheme: str
) -> None:
    tab = await visitors.arrive("Ada", color_scheme=scheme, reduced_motion="reduce")
    alone = await serious_issues(tab.page)
    bob = await visitors.arrive("Bob")
    await tab.writes("Mine")
    await bob.writes("Somebody else's")
    await bob.says("Hello")
    await bob.points_at(0.5, 0.5)
    await expect(tab.messages).to_have_text(["Hello"])
    await expect(tab.notes).to_have_text(["Somebody else's"])
    with_company = await serious_issues(tab.page)
    async with tab.sheet():
        await expect(tab.people).to_have_count(2)
        with_sheet = await serious_issues(tab.page)
    await tab.page.click("#me")
    with_question = await serious_issues(tab.page)
    assert [alone, with_company, with_sheet, with_question] == [[], [], [], []]
    found: dict[str, float] = await tab.page.evaluate(CONTRASTS, COLOURS)
    assert len(found) == 3 * COLOURS
    assert {what: contrast for what, contrast in found.items() if contrast < CONTRAST_AA} == {}


@pytest.mark.parametrize("size", [PHONE, SMALL], ids=["phone", "320"])
async def test_a_phone_shows_all_of_it_without_scrolling(visitors: Visitors, size: dict[str, int]) -> None:
    long_name = "Somebody with a name of forty characters"
    tab = await visitors.arrive(long_name, viewport=size, has_touch=True, is_mobile=True)
    for name in ("Ada", "Bob", "Katherine", "Grace"):
        await visitors.arrive(name)
    await expect(tab.page.locator("#faces .more")).to_have_text("+2")
    await tab.page.tap("#add-note")
    await tab.page.keyboard.type("W" * 40)
    await tab.says("https://" + "a-very-long-word" * 20)
    await expect(tab.messages).to_have_count(1)
    await visitors.tabs[1].page.get_by_role("button", name="Send a star").click()
    await expect(tab.page.locator(".reaction")).to_have_count(1)

    async def fits() -> None:
        script = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert await tab.evaluate(script) == [size["width"], size["height"]]
        outside = """[...document.querySelectorAll("body *")].filter(element => {
            const { left, right, width } = element.getBoundingClientRect();
            const isShown = width > 1 && element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
            return isShown && !element.closest(".reaction, .cursor") && (left < -1 || right > innerWidth + 1);
        }).map(element => element.outerHTML.slice(0, 100))"""
        assert await tab.evaluate(outside) == []

    await fits()
    for part in ("#room", "#stack", "#me", "#board", "#add-note", "#log", "#text"):
        await expect(tab.page.locator(part)).to_be_in_viewport(ratio=0.99)
    await tab.page.get_by_role("button", name="Rate limit", exact=True).tap()
    await expect(tab.page.locator("#hammer")).to_be_in_viewport()
    await expect(tab.page.locator("#text")).to_be_hidden()
    await fits()
    async with tab.sheet():
        await expect(tab.people).to_have_count(5)
        await fits()


async def test_the_whole_page_can_be_used_from_the_keyboard(visitors: Visitors) -> None:
    tab = await visitors.arrive("Ada")
    await visitors.arrive("Bob")
    await expect(tab.page.locator("#alone")).to_have_css("visibility", "hidden")
    reached = []
    for _ in range(15):
        await tab.page.keyboard.press("Tab")
        reached.append(await tab.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus on {reached[-1]!r} cannot be seen"
    assert reached == [
        *("room", "stack", "primary somebody-else", "me", "board", "add-note"),
        *(f"react {kind}" for kind in ("heart", "thumb", "star", "smile", "bolt")),
        *("log", "text", "", "hammer"),
    ]
    await tab.page.focus("#stack")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.locator("#people-sheet")).to_be_visible()
    await tab.page.keyboard.press("Escape")
    await expect(tab.page.locator("#stack")).to_be_focused()


async def test_who_comes_back_to_a_room_hears_everything_once(visitors: Visitors, room: str) -> None:
    ada, bob = await visitors.arrive("Ada"), await visitors.arrive("Bob")
    for name in (f"{room}-2", room) * 2:
        await ada.evaluate(f"location.hash = {name!r}")
        await expect(ada.page.locator("#room-name")).to_have_text(name)
        await ada.is_connected()
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await ada.hides()
    await bob.says("First")
    await bob.says("Last")
    await expect(ada.messages.last).to_have_text("Last")
    await expect(ada.messages).to_have_text(["First", "Last"])
    assert await ada.page.title() == f"(2) #{room} · presence-server"


@pytest.mark.parametrize("name", ["", "Ada"])
async def test_a_storage_that_is_full_keeps_nothing_and_the_page_goes_on(
    visitors: Visitors, name: str
) -> None:
    bob = await visitors.arrive("Bob")
    profile = await visitors.profile()
    full = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"
    await profile.add_init_script(full)
    tab = await visitors.open(profile, name)
    await tab.is_connected()
    await tab.writes("Seen by all")
    await expect(bob.notes).to_have_text(["Seen by all"])
    await tab.page.click("#me")
    await tab.page.fill("#name", "Countess")
    await tab.page.keyboard.press("Enter")
    await expect(bob.page.locator(".note .author")).to_have_text("Countess")
