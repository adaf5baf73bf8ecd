"""Allow and deny lists: what they find, for whom, and what they cost nobody else."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Limiter, Rule
from presence_server.throttle.lists import AccessLists, ListEntry, parse_key
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

LOGIN, API = Rule("login", "2/60s"), Rule("api", "3/60s")
NOW_MS = 1_000_000


def found(lists: AccessLists, key: str, *rules: Rule) -> str | None:
    ruling = lists.find_entry(rules or (LOGIN,), key)
    return None if ruling is None else ruling.source


def lists(*entries: tuple[Any, ...]) -> AccessLists:
    return AccessLists([ListEntry(*entry) for entry in entries], lambda: NOW_MS)


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("10.1.2.3", "deny_list"),
        ("10.9.2.3", "allow_list"),
        ("10.9.9.9", "deny_list"),
        ("11.1.2.3", None),
        ("12.1.2.3", "deny_list"),
        ("::ffff:10.1.2.3", "deny_list"),
        ("2001:db8::1", "deny_list"),
        ("2001:db8:0:5::/64", "deny_list"),
        ("2001:db9::/64", None),
        ("2001:d00::/24", None),
        ("10.1.2", None),
        ("10.1.2.3.4", None),
        ("10.1.2.3/x", None),
        ("a.b.c.d", None),
        ("a:b", None),
        ("", None),
        ("1.2.3\0.4", None),
    ],
)
def test_an_address_is_found_in_its_longest_network(key: str, source: str | None) -> None:
    table = lists(
        ("deny", "", "10.0.0.0/8"),
        ("allow", "", "10.9.0.0/16"),
        ("deny", "", "10.9.9.9"),
        ("deny", "", "2001:db8::/32"),
        ("deny", "", "::ffff:12.0.0.0/104"),
    )
    assert found(table, key) == source


def test_a_keys_own_entry_goes_before_a_networks_and_a_rules_before_all_rules() -> None:
    table = lists(
        ("deny", "", "10.0.0.0/8"), ("allow", "10.0.0.1"), ("deny", "10.0.0.1", "", "login"), ("deny", "ada")
    )
    assert found(table, "10.0.0.1", API) == "allow_list"
    assert found(table, "10.0.0.1", LOGIN) == "deny_list"
    assert found(table, "10.0.0.2", API) == "deny_list"
    assert found(table, "ada", API) == "deny_list"
    assert found(table, "bob", API) is None


def test_an_entry_ends_and_what_is_behind_it_holds_again() -> None:
    table = lists(
        ("deny", "", "10.0.0.0/8"),
        ("allow", "10.0.0.1", "", "", NOW_MS),
        ("deny", "ada", "", "", NOW_MS + 1_500),
    )
    assert found(table, "10.0.0.1") == "deny_list"
    ruling = table.find_entry((LOGIN,), "ada")
    assert ruling is not None
    assert ruling.verdict.retry_us == 1_500_000
    assert len(table) == 3
    table.prune()
    assert len(table) == 2


def test_what_is_removed_is_found_no_more() -> None:
    table = lists(("deny", "ada"), ("deny", "", "10.0.0.0/8", "login"))
    assert not table.remove_entry(key="ada", rule="login")
    assert not table.remove_entry(network="10.0.0.0/9", rule="login")
    assert table.remove_entry(key="ada")
    assert table.remove_entry(network="10.0.0.0/8", rule="login")
    assert (found(table, "ada"), found(table, "10.1.1.1"), len(table), table.any) == (None, None, 0, False)


def test_networks_that_come_and_go_leave_nothing_behind() -> None:
    table = lists(("deny", "", "10.0.0.0/8"), ("deny", "", "192.168.0.0/16", "", NOW_MS))
    for n in range(300):
        network = f"10.0.{n // 256}.{n % 256}"
        table.add_entry(ListEntry("deny", network=network))
        assert table.remove_entry(network=network)
    table.prune()
    assert len(table) == 1
    assert {length: len(kept) for length, kept in table._networks[4].items()} == {8: 1}
    assert table._lengths == {4: [8], 6: []}


def test_the_lists_have_a_bound_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presence_server.throttle.lists.ENTRIES_MAX", 3)
    table = lists(("deny", "a"), ("deny", "b"), ("deny", "c", "", "", NOW_MS))
    table.add_entry(ListEntry("allow", "d"))
    with pytest.raises(ValueError, match="3 entries at most"):
        table.add_entry(ListEntry("allow", "e"))


@given(
    networks=st.lists(
        st.tuples(st.ip_addresses(), st.integers(0, 128), st.booleans()),
        max_size=12,
        unique_by=lambda n: (n[0], n[1]),
    ),
    address=st.ip_addresses(),
)
def test_networks_are_found_as_a_search_of_all_of_them_finds(
    networks: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, bool]],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    entries: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, bool] = {}
    for base, bits, allowed in networks:
        network = ipaddress.ip_network((base, min(bits, base.max_prefixlen)), strict=False)
        # What stands for IPv4 networks is one of those; that is tested above.
        address_of_network = network.network_address
        mapped = isinstance(address_of_network, ipaddress.IPv6Address) and address_of_network.ipv4_mapped
        if not mapped or network.prefixlen < 96:
            entries[network] = allowed
    table = AccessLists(
        [ListEntry("allow" if allowed else "deny", "", str(network)) for network, allowed in entries.items()],
        lambda: NOW_MS,
    )
    for asked in (address, *(network.network_address for network in entries)):
        if isinstance(asked, ipaddress.IPv6Address) and asked.ipv4_mapped:
            continue
        holding = [network for network in entries if network.version == asked.version and asked in network]
        expected = max(holding, key=lambda network: network.prefixlen, default=None)
        source = None if expected is None else "allow_list" if entries[expected] else "deny_list"
        assert found(table, str(asked)) == source


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str) -> None:
    parse_key(text)


@pytest.mark.parametrize("shared", [False, True])
async def test_a_listed_key_is_admitted_or_refused_without_being_counted(
    empty_server: RedisServer, shared: bool
) -> None:
    async with Limiter([LOGIN, API], redis=empty_server.url if shared else "") as limiter:
        limiter.allow("ada", rule="login")
        limiter.deny(network="10.0.0.0/8", ttl=60)
        for _ in range(5):
            assert (await limiter.hit("login", "ada")).source == "allow_list"
        told: list[Any] = []
        limiter.decide("login", "10.1.2.3", 1, told.append)
        (refused,) = told
        assert (refused.allowed, refused.source, refused.remaining) == (False, "deny_list", 0)
        assert 59 < refused.retry_after <= 60
        assert refused.headers()["Retry-After"] == "60"
        assert not (await limiter.peek("login", "10.1.2.3")).allowed
        assert empty_server.ask("DBSIZE") == 0
        # Of two rules the one that is allowed is not charged, and the other is.
        for remaining in (2, 1, 0):
            both = await limiter.hit(["login", "api"], "ada")
            assert (both.allowed, both.rule, both.remaining) == (True, "api", remaining)
        assert not (await limiter.hit(["login", "api"], "ada")).allowed
        limiter.deny("ada", rule="login")
        assert (await limiter.hit(["api", "login"], "ada")).source == "deny_list"
        assert limiter.unlist("ada", rule="login")
        assert (await limiter.hit("login", "ada")).remaining == 1


@pytest.mark.parametrize(
    "target", [{}, {"key": "a", "network": "10.0.0.0/8"}, {"network": "10.0.0.0/40"}, {"key": "a", "ttl": 0}]
)
def test_an_entry_that_can_be_none_is_refused(target: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Limiter([LOGIN]).deny(**target)
