"""Two people on the page see what the other does."""

import pytest
from playwright.async_api import expect

from tests.browser.visitor import Visitors

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


async def test_two_people_see_each_other_arrive_and_leave(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    await ada.sees_people({"Ada": 1})
    await expect(ada.page.locator("#invite")).to_be_visible()
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.sees_people({"Ada": 1, "Bob": 1})
    await expect(ada.page.locator("#invite")).to_be_hidden()
    await expect(ada.events).to_have_text(["Bob joined"])
    await bob.page.close()
    await ada.sees_people({"Ada": 1})
    await expect(ada.events).to_have_text(["Bob joined", "Bob left"])


async def test_a_second_tab_is_the_same_person(visitors: Visitors) -> None:
    bob = await visitors.arrive("Bob")
    ada = await visitors.arrive("Ada")
    async with ada.page.expect_popup() as popup:
        await ada.evaluate("document.querySelector('#invite').hidden = false")
        await ada.page.click("#second-tab")
    second = await popup.value
    await bob.sees_people({"Ada": 2, "Bob": 1})
    await expect(bob.events).to_have_text(["Ada joined", "Ada opened another tab"])
    await expect(ada.events).to_have_text(["You opened another tab"])
    await second.close()
    await bob.sees_people({"Ada": 1, "Bob": 1})
    await expect(bob.events.last).to_have_text("Ada closed a tab")


async def test_one_name_in_two_browsers_is_one_person(visitors: Visitors) -> None:
    bob = await visitors.arrive("Bob")
    await visitors.arrive("Ada")
    ada = await visitors.arrive("Ada")
    await bob.sees_people({"Ada": 2, "Bob": 1})
    await ada.sees_people({"Ada": 2, "Bob": 1})


async def test_a_pointer_moves_on_the_others_surface(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob", viewport={"width": 900, "height": 700})
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.points_at(0.25, 0.5)
    cursor = ada.cursor("Bob")
    await expect(cursor).to_have_count(1)
    await expect(cursor).to_have_css("--x", "0.25")
    await expect(cursor).to_have_css("--y", "0.5")
    await bob.page.mouse.move(1, 1)
    await expect(cursor).to_have_count(0)


async def test_arrow_keys_move_a_cursor_too(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.page.focus("#surface")
    await bob.page.keyboard.press("ArrowLeft")
    await bob.page.keyboard.press("ArrowUp")
    await expect(ada.cursor("Bob")).to_have_css("--x", "0.475")
    await expect(ada.cursor("Bob")).to_have_css("--y", "0.475")


async def test_typing_shows_and_ends_with_the_message(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.page.locator("#text").press_sequentially("Hello")
    await expect(ada.typing).to_have_text("Bob is typing")
    await bob.page.press("#text", "Enter")
    await expect(ada.messages).to_have_text(["Hello"])
    await expect(ada.typing).to_be_empty()


async def test_typing_that_stops_without_a_word_expires(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.page.locator("#text").press_sequentially("Hm")
    await expect(ada.typing).to_have_text("Bob is typing")
    await expect(ada.typing).to_be_empty()


async def test_a_message_reaches_the_others_and_is_marked_as_sent(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.says("Good morning")
    await expect(bob.messages).to_have_text(["Good morning"])
    await expect(bob.log.locator(".message header")).to_contain_text("Ada")
    own = ada.log.locator(".message")
    await expect(own).to_have_count(1)
    await expect(own).to_have_attribute("data-state", "sent")
    await expect(own.locator(".mark")).to_contain_text("Sent")


async def test_a_tab_in_the_background_is_away(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await expect(ada.person("Bob").locator(".status")).to_have_text("here")
    await bob.hides()
    await expect(ada.person("Bob").locator(".status")).to_have_text("away")
    await expect(bob.person("Bob").locator(".status")).to_have_text("you, away")
    await bob.hides(hidden=False)
    await expect(ada.person("Bob").locator(".status")).to_have_text("here")


async def test_rooms_are_apart_and_the_address_chooses(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    elsewhere = f"{visitors.room}/elsewhere"
    await bob.evaluate(f"location.hash = '{elsewhere}'")
    await bob.sees_people({"Bob": 1})
    await expect(bob.page.locator("#room-name")).to_have_text(elsewhere)
    await ada.sees_people({"Ada": 1})
