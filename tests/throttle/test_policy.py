"""The policy that operators change while nodes run: what can be stored, who hears of it, and what heals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import ServerQueries
from presence_server.throttle import Limiter, Rule
from presence_server.throttle import policy as policies
from presence_server.throttle.configured import RulesInForce
from presence_server.throttle.policy import (
    ListRecord,
    NewerPolicyError,
    Policy,
    PolicyError,
    PolicyTooLargeError,
    RuleRecord,
)
from presence_server.throttle.policy_follower import PolicyConflictError, PolicyFollower
from presence_server.throttle.policy_store import MemoryPolicyStore, PolicyStore, RedisPolicyStore
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

NOW_MS = 1_000_000
LOGIN = RuleRecord("login", "5/60s", "sliding", 60_000)
BASE = [Rule("login", "9/60s"), Rule("api", "100/1s")]
KEY = "ps:t:policy"


@pytest.fixture(params=["memory", "shared"])
async def store(request: pytest.FixtureRequest, empty_server: RedisServer) -> AsyncIterator[PolicyStore]:
    if request.param == "memory":
        yield MemoryPolicyStore()
        return
    async with shared_store(empty_server) as shared:
        yield shared


@asynccontextmanager
async def shared_store(server: RedisServer) -> AsyncIterator[RedisPolicyStore]:
    client = RedisClient(server.url)
    batcher = PipelineBatcher(client.lane(), 5, lambda: None)
    queries = ServerQueries(batcher, lambda: False, slot_refused=lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        yield RedisPolicyStore(queries, Keys("ps"))
        tasks.cancel_scope.cancel()
    await client.aclose()


class Follows:
    """A limiter that goes by what a store has."""

    def __init__(self, store: PolicyStore) -> None:
        self.limiter = Limiter(BASE)
        self.in_force = RulesInForce(self.limiter, BASE)
        self.follower = PolicyFollower(store, self.in_force.apply, lambda: NOW_MS)

    @property
    def limits(self) -> dict[str, str]:
        return {name: rule.limit for name, rule in self.limiter.rules.items()}


async def test_a_change_is_in_force_on_every_node_that_looks(store: PolicyStore) -> None:
    one, other = Follows(store), Follows(store)
    assert await one.follower.change_policy(lambda policy: policies.set_rule(policy, LOGIN)) == 1
    assert one.limits == {"login": "5/60s", "api": "100/1s"}
    assert other.limits["login"] == "9/60s"
    await other.follower.look_for_change()
    assert (other.limits, other.follower.version) == (one.limits, 1)
    entry = ListRecord(network="10.0.0.0/8", rule="login", note="a botnet")
    assert await other.follower.change_policy(lambda policy: policies.set_entry(policy, "deny", entry)) == 2
    await one.follower.look_for_change()
    assert (await one.limiter.hit("login", "10.1.1.1")).source == "deny_list"
    assert (await one.limiter.hit("api", "10.1.1.1")).source == "local"
    assert await one.follower.change_policy(lambda policy: policies.remove_rule(policy, "login")) == 3
    assert one.limits["login"] == "9/60s"


async def test_a_change_for_another_version_changes_nothing(store: PolicyStore) -> None:
    one, other = Follows(store), Follows(store)
    policy = Policy((LOGIN,))
    assert await one.follower.change_policy(lambda _: policy, expected=0) == 1
    with pytest.raises(PolicyConflictError) as conflict:
        await other.follower.change_policy(lambda _: Policy(), expected=0)
    assert conflict.value.version == 1
    await one.follower.look_for_change()
    assert one.follower.policy == policy
    assert await other.follower.change_policy(lambda _: Policy(), expected=1) == 2


async def test_changes_at_once_are_all_kept(store: PolicyStore) -> None:
    nodes = [Follows(store) for _ in range(4)]

    async def change(n: int) -> None:
        record = RuleRecord(f"r{n}", "1/1s")
        await nodes[n].follower.change_policy(lambda policy: policies.set_rule(policy, record))

    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(change, n)
    await nodes[0].follower.look_for_change()
    assert {rule.name for rule in nodes[0].follower.policy.rules} == {"r0", "r1", "r2", "r3"}
    assert nodes[0].follower.version == 4


async def test_settings_read_again_lose_nothing_of_the_policy(store: PolicyStore) -> None:
    node = Follows(store)
    await node.follower.change_policy(lambda policy: policies.set_rule(policy, LOGIN))
    node.in_force.change_base([Rule("login", "7/60s"), Rule("search", "3/1s")])
    assert node.limits == {"login": "5/60s", "search": "3/1s"}
    await node.follower.change_policy(lambda policy: policies.remove_rule(policy, "login"))
    assert node.limits == {"login": "7/60s", "search": "3/1s"}


async def test_entries_that_have_ended_go_with_the_next_change(store: PolicyStore) -> None:
    node = Follows(store)
    ended, lasting = ListRecord(key="a", until=NOW_MS), ListRecord(key="b", until=NOW_MS + 1)
    await node.follower.change_policy(lambda _: Policy(deny=(ended, lasting)))
    assert node.follower.policy.deny == (lasting,)


async def test_listing_a_key_takes_it_off_the_other_list(store: PolicyStore) -> None:
    node = Follows(store)
    record = ListRecord(key="ada")
    await node.follower.change_policy(lambda policy: policies.set_entry(policy, "deny", record))
    await node.follower.change_policy(lambda policy: policies.set_entry(policy, "allow", record))
    assert (node.follower.policy.allow, node.follower.policy.deny) == ((record,), ())
    assert (
        await node.follower.change_policy(lambda policy: policies.remove_entry(policy, ("bob", "", ""))) == 2
    )
    assert await node.follower.change_policy(lambda policy: policies.remove_entry(policy, record.target)) == 3
    assert len(node.limiter.lists) == 0


# --- what heals, and what is not understood ---


async def test_a_store_that_was_wiped_gets_the_newest_policy_again(empty_server: RedisServer) -> None:
    async with shared_store(empty_server) as store:
        behind, ahead = Follows(store), Follows(store)
        await ahead.follower.change_policy(lambda policy: policies.set_rule(policy, LOGIN))
        await behind.follower.look_for_change()
        await ahead.follower.change_policy(
            lambda policy: policies.set_entry(policy, "deny", ListRecord(key="eve"))
        )
        empty_server.ask("FLUSHALL")
        for node in (behind, ahead, behind):
            await node.follower.look_for_change()
        assert (behind.follower.version, ahead.follower.version) == (2, 2)
        assert behind.follower.policy == ahead.follower.policy
        assert empty_server.ask("HGET", KEY, "version") == b"2"


async def test_of_two_policies_of_one_version_every_node_takes_the_stored_one(
    empty_server: RedisServer,
) -> None:
    async with shared_store(empty_server) as store:
        node = Follows(store)
        await node.follower.change_policy(lambda policy: policies.set_rule(policy, LOGIN))
        other = policies.write(Policy((RuleRecord("login", "8/60s"),)))
        empty_server.ask("HSET", KEY, "version", "1", "tag", "of a failover", "document", other)
        await node.follower.look_for_change()
        assert node.limits["login"] == "8/60s"


@pytest.fixture
def stored(empty_server: RedisServer) -> RedisServer:
    """A server with a policy in it."""
    empty_server.ask("HSET", KEY, "version", "7", "tag", "t", "document", policies.write(Policy((LOGIN,))))
    return empty_server


@pytest.mark.parametrize(
    "document",
    [
        b'{"format":2,"rules":"of another form"}',
        b'{"format":2,"rules":[]}',
        b"{",
        b"[]",
        b"\xff",
        b'{"rules":7}',
    ],
)
async def test_a_document_that_is_not_understood_leaves_what_is_in_force(
    stored: RedisServer, document: bytes
) -> None:
    async with shared_store(stored) as store:
        node = Follows(store)
        await node.follower.look_for_change()
        stored.ask("HSET", KEY, "version", "8", "tag", "u", "document", document)
        await node.follower.look_for_change()
        assert (node.follower.version, node.limits["login"]) == (7, "5/60s")
        assert node.follower.problem
        with pytest.raises(NewerPolicyError):
            await node.follower.change_policy(
                lambda policy: policies.set_entry(policy, "deny", ListRecord(key="eve"))
            )
        assert stored.ask("HGET", KEY, "document") == document


async def test_a_record_that_is_not_understood_spoils_no_other(stored: RedisServer) -> None:
    records = {
        "format": 1,
        "rules": [
            {"name": "new", "limit": "5/60s", "algorithm": "of tomorrow"},
            {"name": "odd", "limit": "5 a day"},
            {"name": "good", "limit": "5/60s"},
        ],
        "deny": [{"key": "eve"}, {"country": "XX"}, {"network": "10.0.0.0/99"}, 7],
    }
    stored.ask("HSET", KEY, "version", "8", "tag", "u", "document", msgspec.json.encode(records))
    async with shared_store(stored) as store:
        node = Follows(store)
        await node.follower.look_for_change()
        assert (node.follower.version, [*node.limits]) == (8, ["login", "api", "good"])
        assert (await node.limiter.hit("good", "eve")).source == "deny_list"
        assert "rules[0]" in node.follower.problem
        with pytest.raises(NewerPolicyError, match="newer node"):
            await node.follower.change_policy(lambda policy: policies.set_rule(policy, LOGIN))


async def test_trouble_that_is_over_is_told_again_when_it_comes_back(empty_server: RedisServer) -> None:
    empty_server.ask("SET", KEY, "no hash")
    async with shared_store(empty_server) as store, anyio.create_task_group() as tasks:
        follower = Follows(store).follower
        tasks.start_soon(follower.run)
        await until(lambda: "WRONGTYPE" in follower._failure)
        empty_server.ask("DEL", KEY)
        follower.look_soon()
        await until(lambda: not follower._failure)
        tasks.cancel_scope.cancel()


# --- what can be stored ---


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (Policy((RuleRecord("login", "5 a minute"),)), r"rules\[0\]: rule 'login': limit '5 a minute'"),
        (Policy((LOGIN, LOGIN)), r"rules\[1\]: 'login' names an earlier rule already"),
        (Policy((RuleRecord("messages", "5/60s"),)), r"rules\[0\]: 'messages' is a limit that only"),
        (Policy(allow=(ListRecord(),)), r"allow\[0\]: an entry is for a key or for a network"),
        (Policy(deny=(ListRecord(key="a", network="10.0.0.1"),)), r"deny\[0\]: an entry is for a key or"),
        (Policy(deny=(ListRecord(network="10.0.0.0/33"),)), r"deny\[0\]: '10.0.0.0/33' is no IP address"),
        (
            Policy((), (ListRecord(key="a"),), (ListRecord(key="a"),)),
            r"deny\[0\]: an earlier entry is for the same",
        ),
    ],
)
def test_what_a_policy_cannot_be_is_named_with_its_place(policy: Policy, problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        policies.write(policy)


def test_a_policy_has_a_bound_on_rules_entries_and_bytes() -> None:
    rules = tuple(RuleRecord(f"r{n}", "1/1s") for n in range(policies.RULES_MAX + 1))
    with pytest.raises(PolicyTooLargeError, match="more than 200"):
        policies.write(Policy(rules))
    policies.write(Policy(rules[:-1]))
    entries = tuple(ListRecord(key=str(n)) for n in range(policies.ENTRIES_MAX + 1))
    with pytest.raises(PolicyTooLargeError, match="more than 5000"):
        policies.write(Policy((), entries[:1], entries[1:]))
    policies.write(Policy((), entries[:1], entries[2:]))
    long = tuple(ListRecord(key=f"{n:0512}") for n in range(2_000))
    with pytest.raises(PolicyTooLargeError, match="bytes"):
        policies.write(Policy(deny=long))


def test_what_is_written_is_read_the_same() -> None:
    policy = Policy(
        (LOGIN,), (ListRecord(key="a", note="the office"),), (ListRecord(network="10.0.0.0/8", until=5),)
    )
    assert policies.read(policies.write(policy)) == (policy, [])


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("10.0.0.0/8", "10.5.5.5/8"),
        ("2001:db8::/32", "2001:0DB8:0::1/32"),
        ("10.0.0.0/8", "::ffff:10.0.0.0/104"),
        ("192.0.2.1", "192.0.2.1/32"),
    ],
)
def test_one_network_in_two_spellings_is_one_target(one: str, same: str) -> None:
    policy = policies.set_entry(Policy(), "deny", ListRecord(network=one))
    policy = policies.set_entry(policy, "deny", ListRecord(network=same, until=1))
    assert [record.network for record in policy.deny] == [same]
    removed = policies.remove_entry(policy, ListRecord(network=one).target)
    assert removed is not None
    assert removed.deny == ()
