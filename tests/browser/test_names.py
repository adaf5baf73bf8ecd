"""Who a visitor is on the page, and what may stand in a name or a message."""

import json
from urllib.parse import urlencode

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from tests.browser.visitor import Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

EVIL_NAME = "<img src=x onerror=document.title=1>"
EVIL_TEXT = (
    "<script>document.title=1</script><img src=x onerror=document.title=1><style>*{display:none}</style>"
)


async def test_a_first_visit_has_a_name_and_needs_no_question(visitors: Visitors) -> None:
    profile = await visitors.profile()
    tab = await visitors.open(profile)
    await tab.is_connected()
    name = await tab.page.locator("#my-name").inner_text()
    assert len(name.split()) == 2
    await tab.sees_people({name: 1})
    await tab.page.close()
    again = await visitors.open(profile)
    await again.is_connected()
    await expect(again.page.locator("#my-name")).to_have_text(name)


async def test_a_new_name_is_seen_at_once_and_nobody_leaves_or_joins(visitors: Visitors) -> None:
    bob = await visitors.arrive("Bob")
    ada = await visitors.arrive("Ada")
    await ada.writes("Signed")
    await ada.page.click("#me")
    await ada.page.fill("#name", "Countess")
    await ada.page.keyboard.press("Enter")
    await bob.sees_people({"Bob": 1, "Countess": 1})
    await expect(bob.page.locator(".note .author")).to_have_text("Countess")
    await ada.sees_people({"Bob": 1, "Countess": 1})
    await ada.page.reload()
    await ada.is_connected()
    await ada.sees_people({"Bob": 1, "Countess": 1})
    await expect(bob.events).to_have_text(["Ada joined"])


async def test_a_name_that_the_server_would_refuse_is_trimmed(visitors: Visitors) -> None:
    odd = " \u202e Zo\u0065\u0308\u0007\u0085  " + "!" * 500
    tab = await visitors.arrive(odd)
    await tab.sees_people({"Zoë " + "!" * 36: 1})
    await tab.page.click("#me")
    await tab.evaluate(
        r"""const input = document.querySelector("#name");
        input.maxLength = 1000;
        input.value = "\u202e A\u0007\ud800" + "?".repeat(500);"""
    )
    await tab.page.keyboard.press("Enter")
    await tab.sees_people({"A " + "?" * 38: 1})


async def test_markup_in_a_name_or_a_message_stays_text(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    evil = await visitors.arrive(EVIL_NAME)
    await ada.sees_people({"Ada": 1, EVIL_NAME: 1})
    await evil.points_at(0.5, 0.5)
    await expect(ada.cursor(EVIL_NAME)).to_have_count(1)
    await evil.page.locator("#text").press_sequentially("x")
    await expect(ada.typing).to_have_text(f"{EVIL_NAME} is typing")
    await evil.says(EVIL_TEXT)
    await expect(ada.messages).to_have_text([EVIL_TEXT])
    await expect(ada.events).to_have_text([f"{EVIL_NAME} joined"])
    for tab in (ada, evil):
        assert (
            await tab.evaluate(
                "document.querySelectorAll('main :is(img, script, style), dialog :is(img, script, style)').length"
            )
            == 0
        )
        assert await tab.page.title() == f"#{visitors.room} · presence-server"


async def test_no_name_is_without_letters_for_its_avatar(visitors: Visitors) -> None:
    """A name of a blank at its end was a TypeError with every change of the roster."""
    ada = await visitors.arrive("Ada")
    names = ["a ", " b", "c  d", " ", "", "\u00a0", "\u200b e"]
    script = "import('/static/demo/person.js').then(({ initials }) => %s.map(initials))"
    assert await ada.evaluate(script % json.dumps(names)) == ["A", "B", "CD", "", "", "", "\u200bE"]


async def test_a_visitor_whose_name_ends_with_a_blank_is_listed(visitors: Visitors, node: Node) -> None:
    ada = await visitors.arrive("Ada")
    async with connect(f"{node.ws_url}?user=b%20") as odd:
        await odd.send(json.dumps({"t": "join", "room": visitors.room}))
        await ada.sees_people({"Ada": 1, "b": 1})


async def test_what_the_page_does_not_expect_of_others_does_not_break_it(
    visitors: Visitors, node: Node
) -> None:
    ada = await visitors.arrive("Ada")
    query = urlencode({"user": "odd", "info": json.dumps({"name": {"first": "Odd"}})})
    async with connect(f"{node.ws_url}?{query}") as odd:
        room = visitors.room
        odd_things = [
            {"t": "join", "room": room, "state": {"status": ["away"], "name": 1, "node": {}}},
            {"t": "signal", "room": room, "key": "cursor", "data": {"x": "0.5", "y": []}},
            {"t": "signal", "room": room, "key": "cursor", "data": {"x": 7e99, "y": -1}},
            {"t": "signal", "room": room, "key": "typing", "data": {"yes": True}},
            {"t": "signal", "room": room, "key": "toString", "data": 1},
            {"t": "signal", "room": room, "key": "reaction", "data": {"kind": "__proto__", "x": 0, "y": 0}},
            {"t": "signal", "room": room, "key": "reaction", "data": None},
            {"t": "publish", "room": room, "data": None},
            {"t": "publish", "room": room, "data": {"text": {"not": "text"}}},
            {"t": "publish", "room": room, "data": {"text": "the last of it"}},
        ]
        for thing in odd_things:
            await odd.send(json.dumps(thing))
        await expect(ada.messages).to_have_text(["the last of it"])
        await ada.sees_people({"Ada": 1, "odd": 1})
        await expect(ada.typing).to_be_empty()


async def test_a_kept_user_that_the_server_would_refuse_is_cleaned(visitors: Visitors) -> None:
    profile = await visitors.profile()
    await profile.add_init_script("localStorage.setItem('presence.demo.user', 'Zoe\\u0000')")
    tab = await visitors.open(profile)
    await tab.is_connected()
    await tab.sees_people({"Zoe": 1})


async def test_a_name_of_which_nothing_can_be_seen_is_none(visitors: Visitors, node: Node, room: str) -> None:
    tab = await visitors.arrive("Ada")
    query = urlencode({"user": "swift-owl-0000", "info": json.dumps({"name": "\u3164\u200b"})})
    async with connect(f"{node.ws_url}?{query}") as socket:
        await socket.send(json.dumps({"t": "join", "room": room}))
        await tab.sees_people({"Ada": 1, "Swift Owl": 1})


async def test_nobody_is_called_you(visitors: Visitors, node: Node, room: str) -> None:
    tab = await visitors.arrive("Ada")
    query = urlencode({"user": "you", "info": json.dumps({"name": "Y\u200bOU"})})
    async with connect(f"{node.ws_url}?{query}") as socket:
        await socket.send(json.dumps({"t": "join", "room": room}))
        await tab.sees_people({"Ada": 1, "Somebody": 1})
        await socket.send(json.dumps({"t": "publish", "room": room, "data": {"text": "not yours"}}))
        await expect(tab.messages).to_have_text(["not yours"])
        await expect(tab.page.locator("#log .message header bdi")).to_have_text("Somebody")
