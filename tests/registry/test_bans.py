"""Bans: what every registry promises of them, on memory, Redis and Valkey."""

import pytest

from presence_server.errors import BansFullError
from presence_server.registry import memory as local_module
from presence_server.registry import redis as redis_module
from presence_server.registry.bans import BanEntry, Bans
from presence_server.registry.commands import Ban, Disconnect, Remove
from tests.registry.registries import Subject

pytestmark = pytest.mark.anyio


async def test_bans_begin_and_end(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    await subject.registry.send_command(Disconnect("ann", now_ms, now_ms + 600_000))
    assert subject.registry.banned_until("ann") == now_ms + 600_000
    await subject.registry.send_command(Disconnect("ann", now_ms, None))
    assert subject.registry.banned_until("ann") == now_ms + 600_000
    await subject.registry.send_command(Disconnect("ann", now_ms, now_ms))
    assert subject.registry.banned_until("ann") == 0


async def test_a_ban_from_a_room_is_one_of_its_own(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    await subject.registry.send_command(Remove("lobby", "c1", now_ms, "ann", now_ms + 600_000))
    assert subject.registry.banned_until("ann", "lobby") == now_ms + 600_000
    assert subject.registry.banned_until("ann", "hall") == subject.registry.banned_until("ann") == 0
    assert not await subject.registry.send_command(Ban("ann", "", now_ms, 0))
    assert subject.registry.banned_until("ann", "lobby") == now_ms + 600_000
    assert await subject.registry.send_command(Ban("ann", "lobby", now_ms, 0))
    assert subject.registry.banned_until("ann", "lobby") == 0
    assert not await subject.registry.send_command(Ban("ann", "lobby", now_ms, 0))


async def test_a_ban_with_a_removal_holds_though_the_member_joined_before_the_clock_was_put_back(
    subject: Subject,
) -> None:
    now_ms = subject.clock.wall_ms()
    joined_ms = now_ms + 7_200_000
    await subject.registry.send_command(Remove("lobby", "c1", joined_ms, "ann", now_ms + 600_000))
    assert subject.registry.banned_until("ann", "lobby") == now_ms + 600_000
    await subject.registry.send_command(Remove("lobby", "c1", joined_ms, "ann", now_ms - 60_000))
    assert subject.registry.banned_until("ann", "lobby") == 0


async def test_bans_in_force_are_listed_page_by_page(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    wanted = []
    for n in range(7):
        room, until = ("", "lobby")[n % 2], now_ms + 600_000 + n // 3  # some end together
        await subject.registry.send_command(Ban(f"zoë {n}", room, now_ms, until))
        wanted.append(BanEntry(f"zoë {n}", room, until))
    found: list[BanEntry] = []
    cursor = None
    for _ in range(4):
        page, cursor = await subject.registry.bans(cursor, 2)
        assert len(page) <= 2
        found += page
    assert cursor is None
    assert sorted(found) == sorted(wanted)
    assert [entry.until for entry in found] == sorted(entry.until for entry in wanted)
    assert await subject.registry.bans(None, 7) == (found, None)
    # The last one of a page is lifted before the next page is read.
    page, cursor = await subject.registry.bans(None, 3)
    await subject.registry.send_command(Ban(page[-1].user, page[-1].room, now_ms, 0))
    rest, _ = await subject.registry.bans(cursor, 100)
    assert {*page, *rest} == set(wanted)


@pytest.mark.parametrize("cursor", ["", "!", "nonsense", "1:abc", "é"])
async def test_a_cursor_that_no_page_gave_is_refused(subject: Subject, cursor: str) -> None:
    with pytest.raises(ValueError, match="no page of bans"):
        await subject.registry.bans(cursor, 10)


async def test_there_are_no_more_bans_than_may_be(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local_module, redis_module):
        monkeypatch.setattr(module, "BANS_MAX", 3)
    now_ms = subject.clock.wall_ms()
    for n in range(3):
        await subject.registry.send_command(Ban(f"u{n}", "", now_ms, now_ms + 600_000))
    subject.commands.clear()
    with pytest.raises(BansFullError):
        await subject.registry.send_command(Ban("u3", "", now_ms, now_ms + 600_000))
    assert subject.commands == []
    assert subject.registry.banned_until("u3") == 0
    await subject.registry.send_command(Ban("u0", "", now_ms, now_ms + 700_000))  # a longer one is no more
    await subject.registry.send_command(Ban("u1", "", now_ms, 0))
    await subject.registry.send_command(Ban("u3", "", now_ms, now_ms + 600_000))
    assert len((await subject.registry.bans(None, 10))[0]) == 3


def test_bans_that_are_over_are_forgotten() -> None:
    bans = Bans()
    for n in range(10_000):
        bans.note_command(Disconnect(f"u{n}", n, n + 10), n)
    assert len(bans) <= 1_001
    assert bans.until("u9999", "", 10_005) == 10_009
