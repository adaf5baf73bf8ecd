"""The hammer: limited, and then recovered, by a server with its default limits."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.browser.visitor import Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

# A phase may last less than the time between two looks of the test.
NOTE_PHASES = """() => {
    const throttle = document.querySelector("#throttle");
    window.phases = [];
    window.limited = new Promise((resolve) => {
        const note = () => {
            const { phase } = throttle.dataset;
            if (phases.at(-1) !== phase) phases.push(phase);
            if (phase === "limited") resolve();
        };
        new MutationObserver(note).observe(throttle, { attributeFilter: ["data-phase"] });
    });
}"""


@pytest.fixture
async def limited(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Visitors]:
    node = Node(tmp_path_factory.mktemp("limited"), "--throttle.messages", "50/1s burst 20")
    async with node, Visitors(browser, node.http_url, "lobby") as visitors:
        yield visitors
        visitors.assert_no_complaints()


async def test_a_page_that_hammers_is_limited_and_recovers_and_stays_connected(limited: Visitors) -> None:
    ada = await limited.arrive("Ada")
    bob = await limited.arrive("Bob")
    await bob.points_at(0.2, 0.2)
    throttle = ada.page.locator("#throttle")
    hammer = ada.page.get_by_role("button", name="Hammer the server")
    await ada.evaluate(NOTE_PHASES)
    await hammer.click()
    await expect(hammer).to_be_disabled()
    await ada.evaluate("limited")
    # The page goes on meanwhile: what it moves is held back, what it writes comes a moment later.
    await ada.points_at(0.5, 0.5)
    await ada.writes("Still allowed")
    await expect(bob.notes).to_have_text(["Still allowed"])
    await expect(throttle).to_have_attribute("data-phase", "ready")
    await expect(ada.page.locator("#throttle-text")).to_have_text(re.compile(r"Recovered: \d+ refused"))
    assert await ada.evaluate("phases") == ["hammering", "limited", "recovering", "ready"]
    await expect(hammer).to_be_enabled()
    assert await ada.connection.get_attribute("data-state") == "connected"
    await ada.sees_people({"Ada": 1, "Bob": 1})


async def test_a_server_without_a_limit_is_said_to_have_none(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    await ada.page.get_by_role("button", name="Hammer the server").click()
    await expect(ada.page.locator("#throttle-text")).to_contain_text("none refused")
    await expect(ada.page.locator("#throttle")).to_have_attribute("data-phase", "ready")


async def test_a_message_that_came_too_fast_is_repeated_into_its_own_room(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    node = Node(tmp_path_factory.mktemp("slow"), "--throttle.publishes", "1/2s")
    async with node, Visitors(browser, node.http_url, "first") as visitors:
        ada = await visitors.arrive("Ada")
        bob = await visitors.open(await visitors.profile(), "Bob")
        await bob.evaluate("location.hash = 'second'")
        await expect(bob.page.locator("#room-name")).to_have_text("second")
        await bob.is_connected()
        for text in ("One", "Two"):
            await ada.says(text)
        await ada.evaluate("location.hash = 'second'")
        await bob.sees_people({"Ada": 1, "Bob": 1})
        for text in ("Three", "Four"):
            await ada.says(text)
        await expect(bob.messages).to_have_count(2)
        assert sorted(await bob.messages.all_inner_texts()) == ["Four", "Three"]
