"""The simulated store against real servers: what a cluster sends in one fixed run is answered alike by both.

Nothing expires in that run, so that the real server need not wait. What expires when is for the rules and for the
test that holds the scripts to them.
"""

import re
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import redis

from presence_server.config.settings import PresenceSettings
from presence_server.protocol.messages import Join, Leave, Members, Publish, Update
from presence_server.registry.commands import Ban, Kick, Remove
from tests.simulation.store import Recorded
from tests.simulation.test_world import Recorder
from tests.simulation.world import World
from tests.support.redis_server import RedisServer

HOUR_MS: Final = 3_600_000
APART_MS: Final = 600_000
"""How far times may be apart: the run takes seconds of virtual time, and a busy machine its own time to repeat it."""
TIME: Final = re.compile(rb"([0-9]{13})(-[0-9]+)?")
"""A time, or a command's id: how many came in one ms depends on how fast they came."""
TIMES_MS: Final = 1_000_000_000_000
"""MemberCounts above this are times."""
UNHURRIED: Final = PresenceSettings(
    ttl_ms=HOUR_MS, heartbeat_ms=2_000, grace_clean_ms=HOUR_MS, grace_lost_ms=HOUR_MS, resume_ms=HOUR_MS
)
OF_THEIR_OWN: Final = frozenset(("INFO", "TIME", "PUBLISH", "CONFIG"))
"""Commands whose answers say who the server is, what time it is, and who listens."""


def played() -> list[Recorded]:
    """Play the run in a world, and return what its nodes sent and were answered."""
    with World(seed=12, nodes=2, presence=UNHURRIED, beginning_ms=time.time_ns() // 1_000_000) as world:
        world.store.record = []
        world.run_for(500)
        first, second = (node.core for node in world.nodes)
        clients = [Recorder(world.nodes[n % 2], f"user-{n}") for n in range(6)]
        for client in clients:
            client.socket.send(Join("lobby", {"n": 1}), Join("hall"))
        world.run_for(1_000)
        for n, client in enumerate(clients):
            client.socket.send(
                Update("lobby", {"n": n}, id=1),
                Publish("lobby", [1], id=2),
            )
        clients[0].socket.send(Leave("hall"), Members("lobby"))
        world.run_for(2_500)
        clients[1].socket.reset()
        resume = next(message.resume for message in clients[1].messages if hasattr(message, "resume"))
        again = Recorder(world.nodes[0], "user-1", resume=resume)
        again.socket.send(Join("lobby"))
        world.run_for(1_000)
        at = world.store.wall_ms
        cids = [getattr(client.messages[0], "cid", "") for client in clients]
        asked = [
            world.nodes[0].call(
                lambda: first.api_dependencies.registry.users(["user-0", "user-1", "nobody"])
            ),
            world.nodes[1].call(
                lambda: second.api_dependencies.registry.send_command(Ban("user-9", "", at, at + HOUR_MS))
            ),
            world.nodes[1].call(
                lambda: second.api_dependencies.registry.send_command(Ban("user-9", "hall", at, at + HOUR_MS))
            ),
            world.nodes[0].call(lambda: first.api_dependencies.registry.send_command(Kick(cids[3], at))),
            world.nodes[0].call(
                lambda: first.api_dependencies.registry.send_command(Remove("hall", cids[4], at, "user-4"))
            ),
            world.nodes[0].call(
                lambda: first.api_dependencies.registry.message("user-2", msgspec.Raw(b"1"), at)
            ),
            world.nodes[0].call(lambda: first.api_dependencies.registry.locate(cids[2])),
        ]
        world.run_for(3_000)
        asked += [
            world.nodes[1].call(lambda: second.api_dependencies.registry.bans(None, 10)),
            world.nodes[1].call(
                lambda: second.api_dependencies.registry.send_command(Ban("user-9", "", at, 0))
            ),
            world.nodes[1].call(lambda: second.api_dependencies.room_index.rooms("", None, 10)),
            world.nodes[1].call(lambda: second.api_dependencies.room_index.members("lobby", None, 2)),
            world.nodes[1].call(second.api_dependencies.registry.nodes),
            world.nodes[0].call(lambda: first.api_dependencies.registry.users(["user-0", "user-3"])),
        ]
        clients[5].socket.close()
        world.run_for(3_000)
        assert [task.exception() for task in asked] == [None] * len(asked)
        assert world.faults == []
        return world.store.record


def same(ours: Any, theirs: Any) -> bool:
    """Tell whether two answers are the same but for what the time was."""
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        ours, theirs = _pairs(ours), _pairs(theirs)
        if ours and all(isinstance(row, list) for row in (*ours, *theirs)):
            # Members: those of a page are in no order that is promised.
            ours, theirs = sorted(ours, key=repr), sorted(theirs, key=repr)
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        return type(ours) is type(theirs)
    if type(ours) is bytes and type(theirs) is bytes:
        return ours == theirs or same_bytes(ours, theirs)
    if type(ours) is int and type(theirs) is int and min(ours, theirs) > TIMES_MS:
        return abs(ours - theirs) < APART_MS
    return type(ours) is type(theirs) and bool(ours == theirs)


def same_bytes(ours: bytes, theirs: bytes) -> bool:
    """Compare what is a time, a command's id, a command, or packed."""
    our_time, their_time = TIME.match(ours), TIME.match(theirs)
    if our_time is not None and their_time is not None:
        rest, their_rest = ours[our_time.end() :], theirs[their_time.end() :]
        return same(int(our_time[1]), int(their_time[1])) and (
            rest == their_rest or same_bytes(rest, their_rest)
        )
    words, their_words = ours.split(b" "), theirs.split(b" ")
    is_command = 1 < len(words) == len(their_words) and words[0] == their_words[0]
    # What is packed may have a blank, too: in the bytes of a time, for a minute of every few hours.
    if is_command and all(map(same, words[1:], their_words[1:])):
        return True
    start = 1 if ours[:1] == theirs[:1] == b"d" else 0
    try:
        return same(msgspec.msgpack.decode(ours[start:]), msgspec.msgpack.decode(theirs[start:]))
    except msgspec.MsgspecError:
        return False


def test_a_run_is_answered_by_a_real_server_as_by_the_simulated_one(server: RedisServer) -> None:
    record = played()
    names = {recorded.command[0] for recorded in record}
    assert names >= {"EVALSHA", "SCRIPT", "PUBLISH", "INFO", "GET"}
    client = redis.Redis.from_url(server.url, protocol=3)
    connection = client.connection_pool.get_connection()
    listener = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
    listener.psubscribe("*")
    assert listener.get_message(timeout=30) is not None
    ids: dict[str, str] = {}
    """The ids that the real server gave the commands, by those that the simulated one did."""
    for n, (command, answer, published) in enumerate(record):
        connection.send_command(  # type: ignore[no-untyped-call]  # redis-py
            *(ids.get(part, part) if isinstance(part, str) else part for part in command)
        )
        try:
            theirs = connection.read_response()
        except redis.ResponseError as exc:
            theirs = exc
        what = (n, command[:1], command[2:8])
        told: list[tuple[str, bytes]] = []
        while len(told) < len(published) and (message := listener.get_message(timeout=30)):
            told.append((message["channel"].decode(), message["data"]))
        assert same(published, told), (what, published, told)
        if isinstance(answer, list) and answer and _is_command_id(answer[0]):
            ids[answer[0].decode()] = theirs[0].decode()
        if command[0] in OF_THEIR_OWN or (isinstance(answer, int) and published):
            continue
        if command[0] == "ZRANGEBYSCORE":  # in the order in which nodes have said last that they are alive
            assert sorted(answer) == sorted(theirs), what
        else:
            assert same(answer, theirs), (what, answer, theirs)
    client.connection_pool.release(connection)
    listener.close()
    client.close()


def _pairs(answer: Sequence[Any]) -> Sequence[Any]:
    """Return the answer of `page.lua` with its members as rows; any other as it is."""
    if len(answer) == 2 and isinstance(answer[0], bytes) and isinstance(answer[1], list):
        packed, read = answer
        return [packed, [[read[i], read[i + 1]] for i in range(0, len(read), 2)]]
    return answer


def _is_command_id(part: Any) -> bool:
    return isinstance(part, bytes) and part[:13].isdigit() and b"-" in part


def test_packed_times_that_have_a_blank_in_their_bytes_are_compared_as_times() -> None:
    blank_ms = 0x01A2_0320_C25B
    ours, theirs = (b"d" + msgspec.msgpack.encode(["lobby", ms]) for ms in (blank_ms, blank_ms + 322))
    assert b" " in ours
    assert same_bytes(ours, theirs)
    assert not same_bytes(ours, b"d" + msgspec.msgpack.encode(["lobby", blank_ms + APART_MS]))
