"""Commands and messages between the nodes that share a registry."""

import pytest

from presence_server.protocol.codec import document
from presence_server.registry.commands import Command, Disconnect, Kick
from tests.registry.registries import DAY_MS, KEYS, Applying, Shared

pytestmark = pytest.mark.anyio


async def test_a_command_whose_message_was_lost_is_heard_with_the_next_proof(shared: Shared) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(two)
    commands = [Kick(f"c{n}", n) for n in range(5)]
    for command in commands:
        await one.send_command(command)
    assert heard == []
    await shared.register(two)
    assert heard == commands
    await shared.register(two)
    assert heard == commands


async def test_each_command_is_applied_once_however_it_comes(shared: Shared) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(two)
    messages: list[bytes] = []
    two_heard, one.receive_command = two.receive_command, messages.append  # type: ignore[method-assign, assignment]  # in a test's hands
    commands = [Kick(f"c{n}", n) for n in range(3)]
    for command in commands:
        await one.send_command(command)
    two_heard(messages[1])  # the first was lost, the third is late
    assert heard == [commands[1]]
    await shared.register(two)
    assert heard == [commands[1], commands[0], commands[2]]
    for message in messages:
        two_heard(message)
    assert len(heard) == 3


async def test_a_command_is_applied_though_the_store_was_wiped_and_its_clock_put_back(shared: Shared) -> None:
    heard: list[Command] = []
    node = shared.node("n1", Applying(heard))
    key = KEYS.registry().commands
    ahead_ms = shared.time_ms() + 60_000
    shared.server.ask("XADD", key, f"{ahead_ms}-0", "o", b"from before")
    shared.server.ask("PEXPIRE", key, 60_000)
    (answer,) = await shared.queries.ask(node.register("", DAY_MS))
    node.registered([ahead_ms, *answer[1:]])
    shared.server.ask("DEL", key)
    command = Kick("c1", 1)
    await shared.node("n2").send_command(command)
    await shared.register(node)
    assert heard == [command]


async def test_what_is_remembered_of_commands_is_bounded(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(two)
    key = KEYS.registry().commands
    monkeypatch.setattr("presence_server.registry.redis.COMMANDS_MAX", 3)
    commands = [Kick(f"c{n}", n) for n in range(5)]
    for command in commands[:2]:
        await one.send_command(command)
    older = shared.server.ask("DUMP", key)
    for command in commands[2:]:
        await one.send_command(command)
        await shared.register(two)
    shared.server.ask("RESTORE", key, 60_000, older, "REPLACE")
    await shared.register(two)
    assert heard == commands
    assert len(two._applied) == 3


async def test_a_node_that_begins_applies_no_old_commands_but_knows_bans(shared: Shared) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(one)
    now_ms = one._clock.wall_ms()
    await one.send_command(Disconnect("ann", now_ms, now_ms + 600_000))
    await one.send_command(Disconnect("bob", now_ms, now_ms + 600_000))
    await one.send_command(Disconnect("bob", now_ms, now_ms))
    await shared.register(two)
    assert heard == []
    assert (two.banned_until("ann"), two.banned_until("bob")) == (now_ms + 600_000, 0)


async def test_a_command_of_another_version_is_passed_over(shared: Shared) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(two)
    commands = KEYS.registry().commands
    shared.server.ask("XADD", commands, "*", "o", b"\xc1 nonsense")
    shared.server.ask("PEXPIRE", commands, 60_000)
    await one.send_command(Kick("c1", 1))
    await shared.register(two)
    assert heard == [Kick("c1", 1)]


async def test_a_message_goes_to_the_nodes_that_the_user_is_on(shared: Shared) -> None:
    one, two, three = shared.node("n1"), shared.node("n2"), shared.node("n3")
    del three
    one.opened("ann", "c1", 1)
    one.opened("ann", "c2", 2)
    two.opened("ann", "c3", 3)
    await one.nodes()
    server = shared.server
    before = int(server.ask("INFO", "commandstats").get("cmdstat_publish", {}).get("calls", 0))
    await one.message("ann", document({"n": 1}), 7)
    after = int(server.ask("INFO", "commandstats").get("cmdstat_publish", {}).get("calls", 0))
    assert after - before == 2


async def test_a_restored_store_has_no_command_applied_again(shared: Shared) -> None:
    heard: list[Command] = []
    one, two = shared.node("n1"), shared.node("n2", Applying(heard))
    await shared.register(one)
    await one.send_command(Kick("c0", 0))  # before the other begins
    await shared.register(two)
    commands = [Kick(f"c{n}", n) for n in range(1, 4)]
    for command in commands:
        await one.send_command(command)
    await shared.register(two)
    assert heard == commands
    stream = KEYS.registry().commands
    ((last, _),) = shared.server.ask("XREVRANGE", stream, "+", "-", "COUNT", 1)
    shared.server.ask("XDEL", stream, last)  # an older store: it lacks the last one
    await shared.register(two)
    assert heard == commands
    await one.send_command(Kick("c4", 4))
    await shared.register(two)
    assert heard == [*commands, Kick("c4", 4)]
