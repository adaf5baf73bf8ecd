"""URLs of the store: each form, and each mistake by its name."""

from pathlib import Path

import pytest

from presence_server.config.store_url import Address, Topology, parse_store_url


def test_a_standalone_server_has_a_host_and_a_port() -> None:
    url = parse_store_url("redis://127.0.0.1")
    assert (url.topology, url.addresses, url.tls) == (
        Topology.STANDALONE,
        (Address("127.0.0.1", 6379),),
        False,
    )
    assert parse_store_url("redis://h:1/3").db == 3
    assert parse_store_url("redis://h?db=4").db == 4
    assert parse_store_url("redis://[::1]:7000").addresses == (Address("::1", 7000),)


def test_a_unix_socket_is_a_path() -> None:
    url = parse_store_url("unix:///run/a%20b.sock?db=2")
    assert (url.path, url.db, url.addresses) == ("/run/a b.sock", 2, ())
    url = parse_store_url("unix://ann:secret@/run/redis.sock")
    assert (url.path, url.username, url.password) == ("/run/redis.sock", "ann", "secret")


def test_credentials_are_percent_decoded_and_may_have_an_at_sign() -> None:
    url = parse_store_url("redis://a%3Ab:p%40s%25%23@h")
    assert (url.username, url.password) == ("a:b", "p@s%#")
    assert parse_store_url("redis://:p@ss@h").password == "p@ss"
    assert parse_store_url("redis://:pw@h").username is None
    assert parse_store_url("redis://h").password is None


def test_sentinels_have_a_name_for_the_primary() -> None:
    url = parse_store_url(
        "redis+sentinel://u:p@h1,h2:26380/mymaster/2?sentinel_password=x&sentinel_username=y"
    )
    assert url.topology is Topology.SENTINEL
    assert url.addresses == (Address("h1", 26379), Address("h2", 26380))
    assert (url.service, url.db, url.username, url.password) == ("mymaster", 2, "u", "p")
    assert (url.sentinel_username, url.sentinel_password, url.sentinel_tls) == ("y", "x", False)
    assert parse_store_url("rediss+sentinel://h/m").sentinel_tls
    assert not parse_store_url("rediss+sentinel://h/m?sentinel_tls=no").sentinel_tls


def test_a_cluster_has_several_servers() -> None:
    url = parse_store_url("rediss+cluster://h1:7000,h2,h1:7000")
    assert (url.topology, url.tls) == (Topology.CLUSTER, True)
    assert url.addresses == (Address("h1", 7000), Address("h2", 6379))


def test_tls_options_are_parameters(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("x")
    url = parse_store_url(f"rediss://h?ssl_ca_certs={ca}&ssl_check_hostname=false")
    assert dict(url.tls_options) == {"ssl_ca_certs": str(ca), "ssl_check_hostname": False}
    url = parse_store_url("rediss://h?ssl_cert_reqs=none")
    assert dict(url.tls_options) == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}


def test_where_the_store_is_can_be_said_without_credentials() -> None:
    assert parse_store_url("redis+sentinel://u:p@h1,h2/m").place == "h1:26379,h2:26379/m"
    assert parse_store_url("unix://:p@/run/s").place == "/run/s"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "expected redis://, rediss://, unix://, redis+sentinel://"),
        ("localhost:6379", "expected redis://"),
        ("http://h", "expected redis://"),
        ("redis://", "the host is missing: redis://HOST:PORT"),
        ("redis+cluster://", "the host is missing: redis+cluster://HOST:PORT,HOST:PORT"),
        ("redis+cluster://a,,b", "a host is missing in"),
        ("redis://:7000", 'a host is missing in ":7000"'),
        ("redis://a,b", "several hosts are for redis+sentinel:// and redis+cluster://"),
        ("redis://h:x", 'the port is a number from 1 to 65535'),
        ("redis://h:0", 'the port is a number from 1 to 65535'),
        ("redis://h:70000", 'the port is a number from 1 to 65535'),
        ("redis://::1", "an IPv6 address has brackets"),
        ("redis://a b", "a host has no spaces"),
        ("redis://h/x", 'the database "x" is no number'),
        ("redis://h/1/2", "more in the path than a database"),
        ("redis://h/1?db=2", "more in the path than a database"),
        ("redis+cluster://h/1", "a Cluster has no database but 0"),
        ("redis+sentinel://h", "the name of the primary is missing: redis+sentinel://HOST,HOST/NAME"),
        ("redis+sentinel://h/", "the name of the primary is missing"),
        ("unix://", "the path of the socket is missing"),
        ("unix://run/s", "the path of the socket is missing"),
        ("redis://:a#b@h", "in a password write %23"),
        ("redis://:a%@h", "in a password write %25"),
        ("redis://:a/b@h", "in a password write %2F and %3F"),
        ("redis://:a?b@h", "in a password write %2F and %3F"),
        ("redis://h?x", "are not NAME=VALUE"),
        ("redis://h?socket_timeout=3", 'unknown parameter "socket_timeout"; there are db'),
        ("redis://h?db=1&db=2", "the parameter db is there twice"),
        ("redis://h?db=", "the parameter db has no value"),
        ("redis://h?sentinel_password=x", "is for redis+sentinel://"),
        ("redis://h?ssl_ca_certs=x", "is for TLS: rediss in place of redis"),
        ("rediss://h?ssl_ca_certs=/none/ca.pem", "ssl_ca_certs: cannot read /none/ca.pem: No such file"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of required, none"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname is true or false"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=yes", "needs ssl_cert_reqs=required"),
        ("rediss+sentinel://h/m?sentinel_tls=x", "sentinel_tls is true or false"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_store_url(url)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@",
        "redis://u:secret@h:x",
        "redis+sentinel://u:secret@h",
        "redis://u:secret/s@h",
        "redis://u:secret?s@h",
    ],
)
def test_no_mistake_repeats_a_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_store_url(url)
    assert "secret" not in str(caught.value)
