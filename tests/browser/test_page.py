"""The page itself: what it may load and run, how it looks on a phone, whether its colours can be read."""

import pytest
from playwright.async_api import expect

from tests.browser.visitor import Visitors

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

CONTRAST_AA = 4.5
PHONE = {"width": 390, "height": 844}
COLOURS = 12

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
    const made = (parent, className) => {
        const element = document.createElement("span");
        element.className = className;
        parent.append(element);
        return getComputedStyle(element);
    };
    const log = document.querySelector("#log");
    const panel = getComputedStyle(document.querySelector(".chat")).backgroundColor;
    const found = {};
    for (let i = 0; i < count; i++) {
        const avatar = made(log, `avatar colour-${i}`);
        found[`avatar ${i}`] = contrast(avatar.color, avatar.backgroundColor);
        found[`name ${i}`] = contrast(made(log, `name colour-${i}`).color, panel);
    }
    for (const selector of ["#counts", "#connection-text", "#node", "#room-name", "#typing", ".hint"]) {
        let shown = document.querySelector(selector);
        const ink = getComputedStyle(shown).color;
        while (getComputedStyle(shown).backgroundColor === "rgba(0, 0, 0, 0)") shown = shown.parentElement;
        found[selector] = contrast(ink, getComputedStyle(shown).backgroundColor);
    }
    const send = getComputedStyle(document.querySelector("#compose button"));
    found.send = contrast(send.color, send.backgroundColor);
    return found;
}"""


async def test_nothing_may_run_or_load_but_the_pages_own_files(visitors: Visitors) -> None:
    tab = await visitors.open(await visitors.profile("Ada"), "Ada")
    response = await tab.page.reload()
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_colour_can_be_read(visitors: Visitors, scheme: str) -> None:
    tab = await visitors.arrive("Ada", color_scheme=scheme)
    found: dict[str, float] = await tab.page.evaluate(CONTRASTS, COLOURS)
    assert len(found) == 2 * COLOURS + 7
    assert {what: contrast for what, contrast in found.items() if contrast < CONTRAST_AA} == {}


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(visitors: Visitors) -> None:
    tab = await visitors.arrive("Somebody with a name of forty characters", viewport=PHONE, has_touch=True)
    for name in ("Ada", "Bob", "Katherine"):
        await visitors.arrive(name)
    await tab.says("https://" + "a-very-long-word" * 20)
    await expect(tab.messages).to_have_count(1)
    assert await tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert await tab.evaluate("document.documentElement.scrollHeight") == PHONE["height"]
    for part in ("#people", "#surface", "#log", "#text"):
        await expect(tab.page.locator(part)).to_be_in_viewport()


async def test_the_whole_page_can_be_used_from_the_keyboard(visitors: Visitors) -> None:
    tab = await visitors.arrive("Ada")
    reached = []
    for _ in range(7):
        await tab.page.keyboard.press("Tab")
        reached.append(await tab.evaluate("document.activeElement.id"))
        outline = await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus on {reached[-1]!r} cannot be seen"
    assert reached == ["room", "me", "second-tab", "surface", "log", "text", ""]
