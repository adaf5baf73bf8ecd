"""Sticky notes: everybody sees them as they are written, and they go with their author."""

import json

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from tests.browser.visitor import Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


async def test_a_note_is_seen_while_it_is_written_dragged_and_deleted(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.writes("Ship it")
    await expect(bob.notes).to_have_text(["Ship it"])
    note = bob.page.locator(".note")
    await expect(note.locator(".author")).to_have_text("Ada")
    before = await note.evaluate("note => note.style.getPropertyValue('--x')")

    grip = await ada.page.locator(".note-bar").bounding_box()
    assert grip is not None
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    await ada.page.mouse.move(x, y)
    await ada.page.mouse.down()
    await ada.page.mouse.move(x + 150, y + 60, steps=4)
    # The others see it move before it is dropped.
    await expect(note).not_to_have_css("--x", before)
    await ada.page.mouse.up()
    there = await ada.page.locator(".note").evaluate("note => note.style.getPropertyValue('--x')")
    await expect(note).to_have_css("--x", there)

    await ada.page.get_by_role("button", name="Delete this note").click()
    await expect(note).to_have_count(0)


async def test_a_note_needs_no_mouse(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await ada.page.locator("#add-note").press("Enter")
    await ada.page.keyboard.type("From the keyboard")
    await expect(bob.notes).to_have_text(["From the keyboard"])
    note = bob.page.locator(".note")
    before = await note.evaluate("note => note.style.getPropertyValue('--x')")
    await ada.page.keyboard.press("Escape")
    await ada.page.keyboard.press("ArrowRight")
    await expect(note).not_to_have_css("--x", before)
    await ada.page.keyboard.press("Delete")
    await expect(note).to_have_count(0)
    await expect(ada.page.locator("#add-note")).to_be_focused()


async def test_notes_outlast_a_reload_and_reach_who_comes_later_but_go_with_their_author(
    visitors: Visitors,
) -> None:
    ada = await visitors.arrive("Ada")
    await ada.writes("Here to stay")
    bob = await visitors.arrive("Bob")
    await expect(bob.notes).to_have_text(["Here to stay"])
    await bob.evaluate("document.querySelector('.note').isTheOldOne = true")
    await ada.page.reload()
    await ada.is_connected()
    await expect(ada.page.locator(".note.own textarea")).to_have_value("Here to stay")
    assert await bob.evaluate("document.querySelector('.note').isTheOldOne") is True
    await ada.page.close()
    await expect(bob.notes).to_have_count(0)


async def test_everybody_has_five_notes_of_a_bounded_length(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    for number in range(5):
        await expect(ada.page.locator("#add-note")).to_be_enabled()
        # The longest text, of the characters that take most bytes: all of it must fit into one state.
        await ada.writes(f"{number}" + "𝄞" * 500)
    await expect(ada.page.locator("#add-note")).to_be_disabled()
    await expect(bob.notes).to_have_count(5)
    for note in await bob.notes.all():
        assert len(await note.inner_text()) <= 120


async def test_what_is_no_note_is_not_shown(visitors: Visitors, node: Node) -> None:
    ada = await visitors.arrive("Ada")
    fine = {"id": "fine", "x": 7, "y": -1, "text": "x" * 2000}
    odd = [None, 1, {}, {"id": 1, "x": 0, "y": 0, "text": ""}, {"id": "a", "x": "0", "y": 0, "text": ""}]
    async with connect(f"{node.ws_url}?user=odd") as socket:
        notes: list[object] = [fine, *odd[:4]]
        await socket.send(json.dumps({"t": "join", "room": visitors.room, "state": {"notes": notes}}))
        await expect(ada.notes).to_have_text(["x" * 120])
        await expect(ada.page.locator(".note")).to_have_css("--x", "1")
        drag = {"x": 0.5, "y": 0.5, "note": {"id": "fine", "x": "far", "y": None}}
        for data in (drag, {"x": 0.5, "y": 0.5, "note": 1}):
            await socket.send(
                json.dumps({"t": "signal", "room": visitors.room, "key": "cursor", "data": data})
            )
        await expect(ada.cursor("odd")).to_have_count(1)
        for notes in ([odd[4]], 1, "notes"):  # type: ignore[assignment]  # no lists, some of them
            state = {"notes": notes}
            await socket.send(json.dumps({"t": "update", "room": visitors.room, "state": state}))
        await expect(ada.notes).to_have_count(0)
