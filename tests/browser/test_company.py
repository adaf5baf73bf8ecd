"""Two people and a phone on the page see what the others do."""

import json
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from tests.browser.visitor import Tab, Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

PHONE = {"width": 390, "height": 844}
CROWD = 34


async def test_two_people_and_a_phone_see_each_other_arrive_and_leave(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    await expect(ada.page.locator("#alone")).to_have_css("visibility", "visible")
    bob = await visitors.arrive("Bob")
    everybody = {"Ada": 1, "Bob": 1, "Cy": 1}
    cy = await visitors.arrive("Cy", viewport=PHONE, has_touch=True, is_mobile=True)
    for tab in (ada, bob, cy):
        await tab.sees_people(everybody)
    await expect(ada.page.locator("#alone")).to_have_css("visibility", "hidden")
    await expect(ada.events).to_have_text(["Bob and Cy joined"])
    await bob.page.close()
    await ada.sees_people({"Ada": 1, "Cy": 1})
    await expect(ada.events).to_have_text(["Bob and Cy joined", "Bob left"])


async def test_open_as_somebody_else_is_another_person_each_time(visitors: Visitors) -> None:
    own = await visitors.open(await visitors.profile())
    await own.is_connected()
    name = await own.page.locator("#my-name").inner_text()
    others = []
    for _ in range(2):
        async with own.page.expect_popup() as popup:
            await own.page.click("header .somebody-else")
        other = Tab(await popup.value, "somebody else")
        visitors.tabs.append(other)
        await other.is_connected()
        others.append(await other.page.locator("#my-name").inner_text())
    await own.sees_people(dict.fromkeys([name, *others], 1))
    # A reload is the same somebody else, and so is the address in another tab of theirs.
    await visitors.tabs[-1].page.reload()
    await visitors.tabs[-1].is_connected()
    await own.sees_people(dict.fromkeys([name, *others], 1))


async def test_a_second_tab_is_the_same_person(visitors: Visitors) -> None:
    bob = await visitors.arrive("Bob")
    profile = await visitors.profile()
    first = await visitors.open(profile)
    await first.is_connected()
    name = await first.page.locator("#my-name").inner_text()
    second = await visitors.open(profile)
    await second.is_connected()
    await bob.sees_people({"Bob": 1, name: 2})
    await second.page.close()
    await bob.sees_people({"Bob": 1, name: 1})
    await expect(bob.events).to_have_text([f"{name} joined"])


async def test_the_sheet_says_what_people_do_and_on_which_node(visitors: Visitors, node: Node) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    async with ada.sheet():
        await expect(ada.person("Bob").locator(".node")).to_have_text(f"node {node.id}")
        await expect(ada.person("Ada").locator(".status")).to_have_text("you, here")
        await expect(ada.person("Bob").locator(".status")).to_have_text("here")
        await bob.hides()
        await expect(ada.person("Bob").locator(".status")).to_have_text("away")
        await bob.hides(hidden=False)
        await expect(ada.person("Bob").locator(".status")).to_have_text("here")
    await expect(ada.page.locator("#node")).to_have_text(node.id)
    await expect(ada.page.locator("#tally")).to_have_text("2 people on 1 node")


async def test_a_crowd_is_one_line_and_a_number(visitors: Visitors, node: Node) -> None:
    ada = await visitors.arrive("Ada")
    async with AsyncExitStack() as stack:
        for number in range(CROWD):
            socket = await stack.enter_async_context(connect(f"{node.ws_url}?user=user-{number}"))
            await socket.send(json.dumps({"t": "join", "room": visitors.room, "mode": "none"}))
        await expect(ada.page.locator("#faces .more")).to_have_text(f"+{CROWD + 1 - 3}")
        await expect(ada.page.locator("#faces .avatar")).to_have_count(4)
        await expect(ada.events).to_have_text([f"{CROWD} people joined"])
        async with ada.sheet():
            await expect(ada.people).to_have_count(CROWD + 1)


async def test_a_pointer_moves_on_the_others_board_and_its_label_fades(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob", viewport={"width": 900, "height": 700})
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.points_at(0.25, 0.5)
    cursor = ada.cursor("Bob")
    await expect(cursor).to_have_css("--x", "0.25")
    await expect(cursor).to_have_css("--y", "0.5")
    await expect(cursor.locator("bdi")).to_have_css("opacity", "0")
    await bob.points_at(0.3, 0.5)
    await expect(cursor.locator("bdi")).to_have_css("opacity", "1")
    await bob.page.mouse.move(1, 1)
    await expect(cursor).to_have_count(0)
    await bob.page.focus("#board")
    await bob.page.keyboard.press("ArrowLeft")
    await bob.page.keyboard.press("ArrowUp")
    await expect(cursor).to_have_css("--x", "0.475")
    await expect(cursor).to_have_css("--y", "0.475")


async def test_a_reaction_rises_on_the_others_board_and_is_gone(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.page.get_by_role("button", name="Send a heart").click()
    heart = ada.page.locator("#reactions .reaction.heart")
    await expect(heart).to_have_text("Bob")
    await expect(ada.page.locator("#announcer")).to_contain_text("Bob sent a heart")
    await expect(heart).to_have_count(0)


async def test_typing_shows_and_ends_with_the_message(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.page.locator("#text").press_sequentially("Hello")
    await expect(ada.typing).to_have_text("Bob is typing")
    await bob.page.press("#text", "Enter")
    await expect(ada.messages).to_have_text(["Hello"])
    await expect(ada.typing).to_be_empty()
    await expect(ada.log.locator(".message header")).to_contain_text("Bob")
    own = bob.log.locator(".message")
    await expect(own).to_have_attribute("data-state", "sent")
    await expect(own.locator(".mark")).to_contain_text("Sent")
    # And typing that stops without a word expires.
    await bob.page.locator("#text").press_sequentially("Hm")
    await expect(ada.typing).to_have_text("Bob is typing")
    await expect(ada.typing).to_be_empty()


async def test_rooms_are_apart_and_the_address_chooses(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await bob.writes("Where am I?")
    await expect(ada.notes).to_have_text(["Where am I?"])
    await bob.evaluate(f"location.hash = '{visitors.room}/elsewhere'")
    await bob.sees_people({"Bob": 1})
    await expect(bob.page.locator("#room-name")).to_have_text(f"{visitors.room}/elsewhere")
    await ada.sees_people({"Ada": 1})
    await expect(ada.notes).to_have_count(0)
