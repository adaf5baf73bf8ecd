"""What every registry promises, on memory, Redis and Valkey."""

import pytest

from presence_server.grants import Grant
from presence_server.registry.commands import Ban, Command, Disconnect, Kick, Regrant, Remove, Revoke
from presence_server.registry.port import (
    Located,
    Present,
    UserConnection,
    UserStatus,
)
from tests.registry.registries import Applying, Subject, local_registry
from tests.support.handclock import HandClock

pytestmark = pytest.mark.anyio


async def test_a_user_s_connections_come_and_go(subject: Subject) -> None:
    registry = subject.registry
    assert await subject.status() == UserStatus([], None)
    registry.opened("ann", "c1", 1_000)
    registry.opened("ann", "c2", 2_000)
    registry.opened("bob", "c3", 3_000)
    status = await subject.status()
    assert status.connections == [UserConnection("c1", "n1", 1_000), UserConnection("c2", "n1", 2_000)]
    assert status.last_seen is not None
    assert abs(status.last_seen - subject.clock.wall_ms()) < 60_000
    registry.closed("ann", "c1")
    assert [c.cid for c in (await subject.status()).connections] == ["c2"]
    registry.closed("ann", "c2")
    gone = await subject.status()
    assert gone.connections == []
    assert gone.last_seen is not None
    assert len((await subject.status("bob")).connections) == 1


async def test_many_users_are_answered_in_their_places(subject: Subject) -> None:
    for n in range(0, 1_000, 2):
        subject.registry.opened(f"u{n}", f"c{n}", n)
    await subject.arrive()
    found = await subject.registry.users([f"u{n}" for n in range(1_000)])
    assert [bool(status.connections) for status in found] == [n % 2 == 0 for n in range(1_000)]


@pytest.mark.parametrize("user", ["zoë", "{x}", "a}b{", "#tag", "x" * 128, "with space", "é" * 128])
async def test_users_of_any_name_are_told_apart(subject: Subject, user: str) -> None:
    subject.registry.opened(user, "c1", 1)
    assert [c.cid for c in (await subject.status(user)).connections] == ["c1"]
    assert (await subject.status(user + "2")).connections == []


@pytest.mark.parametrize(
    "command",
    [
        Disconnect("zoë", 1, None),
        Disconnect("ann", 5, 2**52),
        Kick("c1", 1_700_000_000_000),
        Remove("a/b", "c1", 1_700_000_000_000),
        Remove("lobby", "c1", 5, "zoë", 2**52),
        Ban("zoë", "", 5, 2**52),
        Ban("zoë", "lobby", 5, 0),
        Revoke("s", 1),
        Regrant("s", 1, None, 60_000),
        Regrant("s", 1, [Grant("a:*", ["join"])], 60_000),
    ],
)
async def test_a_command_is_applied_as_it_was_given(subject: Subject, command: Command) -> None:
    await subject.registry.send_command(command)
    await subject.arrive()
    assert subject.commands == [command]


async def test_where_a_connection_is_and_whose_is_known(subject: Subject) -> None:
    here = subject.here
    here["c1"] = Present("zoë x", ["hall", "lobby"])
    subject.registry.opened("zoë x", "c1", 1)
    await subject.arrive()
    assert await subject.registry.locate("c1") == Located("zoë x", "n1")
    assert await subject.registry.locate("c2") is None
    assert await subject.registry.rooms({"c1": "n1", "c2": "n1"}) == {"c1": ["hall", "lobby"], "c2": []}
    here.clear()
    subject.registry.closed("zoë x", "c1")
    await subject.arrive()
    assert await subject.registry.locate("c1") is None


async def test_who_left_long_ago_is_forgotten() -> None:
    clock = HandClock()
    registry = local_registry(clock, Applying([]), last_seen_ms=60_000)
    registry.opened("ann", "c1", 1)
    registry.closed("ann", "c1")
    at = clock.wall_ms()
    clock.move(59_999)
    assert (await registry.users(["ann"]))[0].last_seen == at
    clock.move(1)
    assert (await registry.users(["ann"]))[0].last_seen is None
    registry.closed("bob", "c2")
    assert registry._seen_ms.keys() == {"bob"}
