"""Scripts that belong to no room: claims of connections, and the index of rooms. Each key that they write ends."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from redis import Redis

from presence_server.presence.redis import CLAIM, END_TOKENS
from presence_server.presence.room_index.redis import INDEX_ADD, INDEX_NAMES
from presence_server.redis_io.scripts import Script
from tests.support.redis_server import RedisServer

CLAIMED = "claim"
INDEX = ("names", "leases")
TTL_MS = 60_000


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(shared_server.url) as client:
        client.flushall()
        yield client


def run(client: Redis, script: Script, keys: tuple[str, ...], *arguments: object) -> Any:
    return client.eval(script.text, len(keys), *keys, *map(str, arguments))


# --- claims ---


def claim(client: Redis, epoch: int, node: str, before: str = "n0") -> tuple[int, dict[str, Any]]:
    """Claim a connection; return the epoch, and what each node was told."""
    with client.pubsub() as heard:  # type: ignore[no-untyped-call]  # redis-py
        heard.psubscribe("node:*")
        assert heard.get_message(timeout=20) is not None
        claimed = run(client, CLAIM, (CLAIMED,), epoch, node, before, TTL_MS, "node:", ":in", "cid-1", "")
        client.publish("node:end", b"")
        told: dict[str, Any] = {}
        while (message := heard.get_message(timeout=20)) is not None and message["data"] != b"":
            told[message["channel"].decode()] = msgspec.msgpack.decode(message["data"])
        return claimed, told


def test_a_claim_is_above_the_token_s_epoch_and_its_node_is_told(client: Redis) -> None:
    claimed, told = claim(client, 3, "n1")
    assert claimed == 4
    assert told == {"node:n0:in": ["claimed", "cid-1", 4]}
    assert client.hgetall(CLAIMED) == {b"epoch": b"4", b"node": b"n1", b"token": b"3"}
    assert TTL_MS - 20_000 < client.pttl(CLAIMED) <= TTL_MS


def test_a_later_claim_is_above_every_earlier_one_and_both_nodes_are_told(client: Redis) -> None:
    claim(client, 7, "n1")
    claimed, told = claim(client, 1, "n2")
    assert claimed == 9
    assert told == {f"node:{node}:in": ["claimed", "cid-1", 9] for node in ("n1", "n0")}
    assert client.hget(CLAIMED, "node") == b"n2"


def test_a_newer_token_goes_above_an_older_claim(client: Redis) -> None:
    claim(client, 1, "n1")
    assert claim(client, 20, "n1")[0] == 21


def test_who_claims_is_not_told_of_its_own_claim(client: Redis) -> None:
    assert claim(client, 1, "n0") == (2, {})
    assert claim(client, 2, "n0", "n9") == (3, {"node:n9:in": ["claimed", "cid-1", 3]})


def test_each_claim_is_remembered_anew(client: Redis) -> None:
    claim(client, 1, "n1")
    client.pexpire(CLAIMED, 30_000)
    claim(client, 1, "n2")
    assert client.pttl(CLAIMED) > 35_000


def test_a_large_epoch_is_kept_to_the_digit(client: Redis) -> None:
    assert claim(client, 2**52, "n1")[0] == 2**52 + 1
    assert client.hget(CLAIMED, "epoch") == str(2**52 + 1).encode()


def test_a_connection_whose_tokens_have_ended_cannot_be_claimed(client: Redis) -> None:
    claim(client, 1, "n1")
    assert run(client, END_TOKENS, (CLAIMED,), TTL_MS) == 1
    before = client.hgetall(CLAIMED)
    assert claim(client, 5, "n2") == (0, {})
    assert client.hgetall(CLAIMED) == before


def test_the_end_of_tokens_is_remembered_as_long_as_they_would_be_good(client: Redis) -> None:
    assert run(client, END_TOKENS, (CLAIMED,), TTL_MS) == 1
    assert TTL_MS - 20_000 < client.pttl(CLAIMED) <= TTL_MS
    assert claim(client, 1, "n1")[0] == 0


# --- the index of rooms ---


def names(client: Redis, lowest: str = "-", limit: int = 1_000) -> list[str]:
    found = run(client, INDEX_NAMES, INDEX[:1], lowest, "+", limit)
    return [name.decode() for name in found]


def leases(client: Redis) -> dict[str, float]:
    found: Any = client.zrange(INDEX[1], 0, -1, withscores=True)
    return {name.decode(): score for name, score in found}


def now_ms(client: Redis) -> int:
    seconds, micros = client.time()
    return int(seconds * 1_000 + micros // 1_000)


def test_rooms_are_noted_in_the_order_of_their_names_with_their_leases(client: Redis) -> None:
    before = now_ms(client)
    assert run(client, INDEX_ADD, INDEX, TTL_MS, "b", "c", "a") == 3
    after = now_ms(client)
    assert names(client) == ["a", "b", "c"]
    assert set(leases(client)) == {"a", "b", "c"}
    for until in leases(client).values():
        assert before + TTL_MS <= until <= after + TTL_MS
    for key in INDEX:
        assert TTL_MS - 20_000 < client.pttl(key) <= TTL_MS


def test_a_note_is_renewed_and_never_shortened(client: Redis) -> None:
    run(client, INDEX_ADD, INDEX, TTL_MS, "a", "b")
    first = leases(client)
    assert run(client, INDEX_ADD, INDEX, 2 * TTL_MS, "a") == 2
    renewed = leases(client)
    assert renewed["a"] >= first["a"] + TTL_MS
    assert renewed["b"] == first["b"]
    run(client, INDEX_ADD, INDEX, 1_000, "a")
    assert leases(client) == renewed
    for key in INDEX:
        assert client.pttl(key) > 2 * TTL_MS - 20_000


def test_notes_that_are_over_go_a_hundred_at_a_time(client: Redis) -> None:
    run(client, INDEX_ADD, INDEX, TTL_MS, "kept", *(f"old-{n:03}" for n in range(150)))
    over = now_ms(client) - 1
    client.zadd(INDEX[1], {f"old-{n:03}": over for n in range(150)})
    assert run(client, INDEX_ADD, INDEX, TTL_MS) == 51
    assert set(names(client)) == set(leases(client))
    assert run(client, INDEX_ADD, INDEX, TTL_MS) == 1
    assert names(client) == ["kept"]


def test_an_empty_index_stays_empty(client: Redis) -> None:
    assert run(client, INDEX_ADD, INDEX, TTL_MS) == 0
    assert client.keys() == []


def test_an_index_whose_last_note_ends_now_still_ends(client: Redis) -> None:
    run(client, INDEX_ADD, INDEX, 0, "a")
    for key in INDEX:
        assert client.pttl(key) != -1


def test_names_are_read_from_one_on_and_no_more_than_asked(client: Redis) -> None:
    run(client, INDEX_ADD, INDEX, TTL_MS, "a", "b", "c", "d")
    assert names(client, "(a", 2) == ["b", "c"]
    assert names(client, "[a", 1) == ["a"]
    assert names(client, "(d") == []
