"""Which address a client is counted by, whatever headers it sends."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle.address import ClientAddresses, parse_address
from tests.support.properties import examples

PROXY = "10.0.0.1"
BEHIND = ClientAddresses(["10.0.0.0/8", "fd00::/8"])
FORWARDED = ClientAddresses(["10.0.0.0/8"], "Forwarded")


def client(addresses: ClientAddresses, peer: str, *lines: str) -> str:
    return str(addresses.client(peer, lines))


@pytest.mark.parametrize(
    "line",
    ["6.6.6.6", "127.0.0.1", "10.0.0.9", "6.6.6.6, 10.0.0.1", "unknown", "for=6.6.6.6", "", ",,,", "\x00"],
)
@pytest.mark.parametrize("addresses", [BEHIND, FORWARDED, ClientAddresses()])
def test_what_an_untrusted_peer_says_never_counts(addresses: ClientAddresses, line: str) -> None:
    assert client(addresses, "9.9.9.9", line) == "9.9.9.9"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, 10.0.0.7, 10.9.9.9"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4", "10.0.0.7"], "1.2.3.4"),
        (["10.0.0.7"], "10.0.0.7"),
        ([], PROXY),
        ([""], PROXY),
        (["6.6.6.6, unknown"], PROXY),
        (["6.6.6.6, not an address, 10.0.0.7"], "10.0.0.7"),
        (["1.2.3.4:5678"], "1.2.3.4"),
        (["[2001:db8::1]:5678"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        (["  1.2.3.4  "], "1.2.3.4"),
        ([", ".join(["6.6.6.6"] * 10_000 + ["1.2.3.4"])], "1.2.3.4"),
        (["6.6.6.6"] * 10_000 + ["1.2.3.4"], "1.2.3.4"),
    ],
)
def test_a_chain_of_trusted_proxies_gives_the_client(lines: list[str], expected: str) -> None:
    assert client(BEHIND, PROXY, *lines) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("for=1.2.3.4", "1.2.3.4"),
        ("For=1.2.3.4;proto=https;by=203.0.113.43", "1.2.3.4"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ("for=6.6.6.6, for=1.2.3.4", "1.2.3.4"),
        ("for=6.6.6.6, for=1.2.3.4;proto=http, for=10.0.0.4", "1.2.3.4"),
        ('for="_gazonk"', PROXY),
        ("for=unknown", PROXY),
        ("proto=https", PROXY),
        ('for="a,b", for=1.2.3.4', "1.2.3.4"),
        ('for=6.6.6.6, for="1.2.3.4', "1.2.3.4"),
    ],
)
def test_forwarded_is_understood(line: str, expected: str) -> None:
    assert client(FORWARDED, PROXY, line) == expected


def test_ipv6_is_counted_by_its_prefix_and_ipv4_whole() -> None:
    def key(text: str, prefix: int = 64) -> str:
        return ClientAddresses(ipv6_prefix=prefix).key(parse_address(text))

    assert key("2001:db8:1:2:3:4:5:6") == key("2001:db8:1:2::9") != key("2001:db8:1:3::9")
    assert key("2001:db8:1:2::9", 48) == key("2001:db8:1:3::9", 48)
    assert key("::ffff:1.2.3.4") == key("1.2.3.4") == "1.2.3.4" != key("1.2.3.5")
    assert ClientAddresses().key(None) == "unknown"


@given(text=st.text(max_size=50) | st.ip_addresses().map(str))
@examples(500)
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = parse_address(text)
    if found is None:
        with pytest.raises(ValueError, match="address"):
            ipaddress.ip_address(text)


@given(lines=st.lists(st.text(alphabet='1234567890.,:[]"; =forFOR', max_size=60), max_size=4))
@examples(300)
def test_no_header_makes_a_client_of_another_peer(lines: list[str]) -> None:
    for addresses in (BEHIND, FORWARDED):
        assert client(addresses, "9.9.9.9", *lines) == "9.9.9.9"
        found = addresses.client(PROXY, lines)
        assert found is not None
