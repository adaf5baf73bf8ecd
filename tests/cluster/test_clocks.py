"""Machines whose clocks are hours off: only the store's time counts."""

import os
import time
from pathlib import Path

import anyio
import pytest

from presence_server.client import Left
from tests.cluster.company import QUICK, ROOM, TTL_S, StartNode, agreed, counts, raw_members, visiting
from tests.support.rawclient import speaking
from tests.support.waiting import until

# Clocks of machines are not the server's: one kind will do.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", ["valkey"], indirect=True),
    pytest.mark.parametrize("pace", [QUICK], ids=["quick"]),
]


def clock(offset: str) -> dict[str, str]:
    """Return an environment in which a process's clock is off by `offset`, its intervals are not."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        assert not os.environ.get("CI"), "there is no libfaketime, and CI must have it"
        pytest.skip("NOT TESTED with clocks that are off: there is no libfaketime on this machine")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


async def test_nothing_expires_early_or_late_where_clocks_are_off(start_node: StartNode) -> None:
    ahead, behind, right = (
        await start_node(env=clock("+2h")),
        await start_node(env=clock("-2h")),
        await start_node(),
    )
    before_ms = time.time() * 1_000 - 1
    async with visiting([ahead, behind, right], [f"user-{i}" for i in range(9)]) as visitors:
        await until(agreed(visitors, 9), counts(visitors))
        for visitor in visitors:
            joined_ms = [member.at for member in visitor.room.members.values()]
            assert before_ms <= min(joined_ms)
            assert max(joined_ms) <= time.time() * 1_000 + 1
            visitor.forget_events()
        await anyio.sleep(TTL_S + 1)
        for visitor in visitors:
            assert visitor.comings_and_goings == []
        async with raw_members(right, ["gone"]) as (gone,):
            await until(agreed(visitors, 10), counts(visitors))
            gone.reset()
            left_at = time.monotonic()
            await until(lambda: all(visitor.all(Left) for visitor in visitors), counts(visitors))
            assert time.monotonic() - left_at > 0.5


async def test_a_resume_token_is_good_on_a_node_whose_clock_is_off(start_node: StartNode) -> None:
    ahead, behind = await start_node(env=clock("+30h")), await start_node(env=clock("-2h"))
    async with visiting([ahead], ["ann"]) as (ann,), raw_members(ahead, ["bob"]) as (first,):
        await until(agreed([ann], 2), counts([ann]))
        ann.forget_events()
        path = f"/ws?user=bob&resume={first.welcome['resume']}"
        async with speaking(behind.port, path) as second:
            assert second.welcome["resumed"]
            await second.request(t="join", room=ROOM, id=1)
            back = f"/ws?user=bob&resume={second.welcome['resume']}"
            async with speaking(ahead.port, back) as third:
                assert third.welcome["resumed"]
                await third.request(t="join", room=ROOM, id=1)
                assert ann.comings_and_goings == []
