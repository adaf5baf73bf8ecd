"""Rules between settings, and warnings."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from presence_server.config import Settings, load, warnings
from presence_server.config.check import violations
from presence_server.config.cores import cores_available, worker_count
from presence_server.config.open_files import RESERVED, open_files_max
from presence_server.config.settings import LimitsSettings
from presence_server.errors import ConfigError
from tests.support.workers import need_two_cores

SECRET = "a secret of thirty-two bytes or more"
ANY = "0.0.0.0"  # noqa: S104 - nothing listens here
TLS = Path(__file__).parent / "tls"


def weak_key() -> str:
    key = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - it must be refused
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def found(**flags: str) -> list[str]:
    """Give the problems, without their place, of settings such as `server__port="1"`."""
    try:
        load(flags={f"--{name.replace('__', '.')}": text for name, text in flags.items()})
    except ConfigError as exc:
        return [problem.partition(": ")[2] for problem in exc.problems]
    return []


@pytest.mark.parametrize(("heartbeat", "good"), [("10000", True), ("10001", False)])
def test_three_heartbeats_fit_the_ttl(heartbeat: str, good: bool) -> None:
    problem = (
        f"presence.heartbeat_ms: 3 times presence.heartbeat_ms ({heartbeat}) must not be more than "
        "presence.ttl_ms (30000)"
    )
    assert found(presence__heartbeat_ms=heartbeat) == ([] if good else [problem])


@pytest.mark.parametrize(("soft", "good"), [("1048575", True), ("1048576", False)])
def test_the_soft_limit_is_less_than_the_hard_one(soft: str, good: bool) -> None:
    problem = (
        f"limits.outbox_soft_bytes: limits.outbox_soft_bytes ({soft}) must be less than "
        "limits.outbox_hard_bytes (1048576)"
    )
    assert found(limits__outbox_soft_bytes=soft) == ([] if good else [problem])


@pytest.mark.parametrize("value", ["0", "1"])
def test_members_max_is_0_or_more(tmp_path: Path, value: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f"[[rooms]]\nmembers_max = {value}\n", encoding="utf-8")
    assert load(path).rooms[0].members_max == int(value)


def test_block_ms_may_be_off_and_a_duration_may_not() -> None:
    assert found(throttle__block_ms="0") == []
    assert len(found(throttle__deadline_ms="0", server__drain_ms="0", limits__handshake_ms="0")) == 3


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "::", ANY, "localhost", "a.b-c.example", "fe80::1%eth0"]
)
def test_addresses_and_names_are_hosts(host: str) -> None:
    assert found(server__host=host) == []


@pytest.mark.parametrize(
    "host", ["[::1]", "127.0.0.256", "1.2.3", "a b", "*", "http://a", "a:80", "-a", "a" * 64]
)
def test_anything_else_is_no_host(host: str) -> None:
    assert found(server__host=host) == [
        f'server.host: "{host}" is no IP address (without brackets) and no host name'
    ]


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_the_internal_port_on_loopback_needs_no_key(host: str) -> None:
    assert found(server__api_host=host) == []


@pytest.mark.parametrize("host", [ANY, "::", "10.0.0.1", "localhost.example"])
def test_the_internal_port_beyond_loopback_needs_a_key(host: str) -> None:
    assert found(server__api_host=host) == [
        f'server.api_host: "{host}" is not a loopback address, so the internal port needs api.key'
    ]
    assert found(server__api_host=host, api__key="k") == []


def test_the_two_ports_differ_on_one_host() -> None:
    assert found(port="8081") == [
        "server.port: server.port and server.api_port are both 8081 on 127.0.0.1; they must differ"
    ]
    assert found(port="8081", host="127.0.0.2") == []
    assert found(port="0", **{"api-port": "0"}) == []


def test_a_certificate_and_its_key_are_used_together() -> None:
    cert, key = str(TLS / "cert.pem"), str(TLS / "key.pem")
    assert found(server__tls_cert=cert, server__tls_key=key) == []
    assert found(server__tls_cert=cert) == ["server.tls_cert: server.tls_key must be set too, or neither"]
    assert found(server__tls_key=key) == ["server.tls_key: server.tls_cert must be set too, or neither"]
    assert found(server__tls_cert="/nowhere/c", server__tls_key="/nowhere/k") == [
        "server.tls_cert: cannot read /nowhere/c: No such file or directory",
        "server.tls_key: cannot read /nowhere/k: No such file or directory",
    ]


@pytest.mark.parametrize("key", ["other-key.pem", "key-with-passphrase.pem", "cert.pem"])
def test_a_key_that_does_not_fit_the_certificate_is_refused(key: str) -> None:
    (problem,) = found(server__tls_cert=str(TLS / "cert.pem"), server__tls_key=str(TLS / key))
    assert "are not a PEM certificate and its private key without a passphrase" in problem


@pytest.mark.skipif(open_files_max() is None, reason="this machine has no limit of open files")
def test_more_connections_than_open_files_are_refused_with_both_numbers() -> None:
    highest = open_files_max()
    assert highest is not None
    others = RESERVED + LimitsSettings().pending
    if highest - others + 1 > 10_000_000:
        pytest.skip("the limit is higher than what can be configured")
    assert found(server__max_connections=str(highest - others)) == []
    (problem,) = found(server__max_connections=str(highest - others + 1))
    assert problem == (
        f"server.max_connections: {highest - others + 1} connections need {highest + 1} open files and "
        f"this process may have {highest}; set server.max_connections to {highest - others} or less, or "
        "raise the hard limit (ulimit -Hn, LimitNOFILE= in systemd)"
    )


@pytest.mark.parametrize("key", ["throttle.allow", "proxy.trusted"])
def test_networks_are_addresses_or_networks(key: str) -> None:
    name = key.replace(".", "__")
    assert found(**{name: "10.0.0.1,10.0.0.0/8,fd00::/8,::1"}) == []
    assert found(**{name: "10.0.0.1,example.com,10.0.0.0/33"}) == [
        f'{key}: "example.com" is no IP address and no network such as 10.0.0.0/8',
        f'{key}: "10.0.0.0/33" is no IP address and no network such as 10.0.0.0/8',
    ]


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://a.example", "http://localhost:3000", "http://[::1]:80"]
)
def test_origins_as_browsers_send_them_are_accepted(origin: str) -> None:
    assert found(server__origins=f'["{origin}"]') == []


@pytest.mark.parametrize(
    "origin",
    [
        "", "a.example", "https://a.example/", "https://a.example/x", "https://A.example", "https://", "https://u@a.b",
        "https://a.b:99999", "https://*.a.example", "https://a b",
    ],
)  # fmt: skip
def test_anything_else_is_no_origin(origin: str) -> None:
    (problem,) = found(server__origins=f'["{origin}"]')
    assert problem.startswith(f'server.origins: "{origin}" is no origin')


@pytest.mark.parametrize("key", ["connect", "resume", "messages", "updates", "publishes"])
def test_a_rate_that_cannot_be_read_is_refused(key: str) -> None:
    assert found(**{f"throttle__{key}": "60"}) == [
        f'throttle.{key}: "60" is no rate: expected COUNT/WINDOW, such as 60/60s, 50/1s burst 100 '
        "(window: ms, s, m or h), 5/minute or 10k/day"
    ]
    assert found(**{f"throttle__{key}": ""}) == []


@pytest.mark.parametrize("key", ["connect", "resume", "updates", "publishes"])
@pytest.mark.parametrize("algorithm", ["fixed", "sliding", "counter", "bucket"])
def test_burst_belongs_to_the_bucket(key: str, algorithm: str) -> None:
    problem = (
        f'throttle.{key}: "1/1s burst 2": burst belongs to the token bucket ("bucket"), '
        f'and throttle.algorithm is "{algorithm}"'
    )
    assert found(**{f"throttle__{key}": "1/1s burst 2"}, throttle__algorithm=algorithm) == (
        [] if algorithm == "bucket" else [problem]
    )


def test_messages_have_a_burst_under_every_algorithm() -> None:
    assert found(throttle__messages="1/1s burst 2", throttle__algorithm="sliding") == []


def test_rules_have_their_own_algorithm_and_different_names(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        '[throttle]\nalgorithm = "bucket"\n'
        '[[throttle.rules]]\nname = "a"\nlimit = "5/60s burst 9"\n'
        '[[throttle.rules]]\nname = "a"\nlimit = "5/60s burst 9"\nalgorithm = "bucket"\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == [
        f'{path}, line 5: throttle.rules[0].limit: "5/60s burst 9": burst belongs to the token '
        'bucket ("bucket"), and throttle.rules[0].algorithm is "fixed"',
        f'{path}, line 7: throttle.rules[1].name: "a" names an earlier rule already',
    ]


def test_calendar_quotas_are_fixed_windows_in_a_known_time_zone(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        '[throttle]\nupdates = "10k/day"\n'
        '[[throttle.rules]]\nname = "a"\nlimit = "1M/month"\ntz = "Europe/Berlin"\n'
        '[[throttle.rules]]\nname = "b"\nlimit = "5/day"\nalgorithm = "sliding"\n'
        '[[throttle.rules]]\nname = "c"\nlimit = "5/day"\ntz = "Europe/Berlim"\n'
        '[[throttle.rules]]\nname = "d"\nlimit = "5/24h"\ntz = "Europe/Berlin"\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    sliding, zone, plain = caught.value.problems
    assert sliding.startswith(
        f'{path}, line 9: throttle.rules[1].limit: "5/day": only the fixed window counts'
    )
    assert zone.startswith(
        f"{path}, line 14: throttle.rules[2].tz: no time zone 'Europe/Berlim' is known here"
    )
    assert '"5/24h" is no calendar quota, such as 1000/day' in plain


def test_room_globs_have_the_characters_of_room_names(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[[rooms]]\n[[rooms]]\npattern = "a b"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f'{path}, line 3: rooms[1].pattern: "a b" is no glob: ')


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0",
        "rediss://h",
        "unix:///run/r.sock",
        "redis+cluster://a:1,b:2",
        "redis+sentinel://a:1/m",
        "rediss+sentinel://u:p%40@a:1,[::1]/m/2?sentinel_password=x&ssl_cert_reqs=none",
    ],
)
def test_the_store_has_one_of_its_schemes(url: str) -> None:
    assert found(redis__url=url) == []
    assert len(found(redis__url=url.partition("://")[2])) == 1


def problems_of(flags: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags=flags)
    return caught.value.problems


def test_the_defaults_break_no_rule() -> None:
    assert list(violations(Settings())) == []


# --- several workers ---


def test_more_workers_than_cores_are_refused_with_the_number_that_fits() -> None:
    cores = cores_available()
    (problem,) = problems_of({"--workers": str(cores + 1)})
    which = f"{cores} cores" if cores > 1 else "1 core"
    assert problem == (
        f"flag --workers: server.workers: {cores + 1} workers, and this process may use {which}: "
        f'set "auto", or {cores} or less'
    )


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "", "many", "1025"])
def test_a_number_of_workers_is_one_or_more_or_auto(text: str) -> None:
    (problem,) = problems_of({"--workers": text})
    assert problem.startswith(
        "flag --workers: server.workers: expected an integer from 1 to 1024 or auto, got "
    )


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", None),
        ("100000 100000", 1),
        ("10000 100000", 1),
        ("900000000 100000", None),
        ("0 0", None),
        ("?", None),
        ("", None),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, quota: str, cores: int | None) -> None:
    membership, group = tmp_path / "cgroup", tmp_path / "system.slice" / "presence.service"
    group.mkdir(parents=True)
    unbounded = cores_available(membership, tmp_path)
    for path, folder in (("/system.slice/presence.service", group), ("/", tmp_path)):
        membership.write_text(f"1:name=systemd:/x\n0::{path}\n", encoding="ascii")
        (folder / "cpu.max").write_text(quota, encoding="ascii")
        assert cores_available(membership, tmp_path) == (cores or unbounded)


def test_auto_is_one_worker_a_core() -> None:
    need_two_cores()
    server = load(flags={"--workers": "auto"}).server
    assert (server.workers, worker_count(server)) == ("auto", cores_available())


def test_the_folder_of_sockets_must_be_there_and_short_enough(tmp_path: Path) -> None:
    need_two_cores()

    def problem_of(folder: Path) -> str:
        (problem,) = problems_of({"--workers": "2", "--server.socket_dir": str(folder)})
        return problem

    here = "flag --server.socket_dir: server.socket_dir:"
    none, long = tmp_path / "none", tmp_path / ("x" * 100)
    assert problem_of(none) == f"{here} {none} is no folder"
    long.mkdir()
    assert problem_of(long) == f"{here} {long} is too long: the path of a socket has at most 103 bytes"
    assert load(flags={"--workers": "1", "--server.socket_dir": str(none)}).server.socket_dir == str(none)


# --- warnings ---


def test_the_defaults_warn_of_nothing() -> None:
    assert warnings(Settings()) == []


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        ({"--auth.audience": "a"}, 'auth.audience: has no effect while auth.mode is "none"'),
        (
            {"--auth.mode": "session", "--auth.secret": SECRET},
            'auth.secret: has no effect while auth.mode is "session"',
        ),
        (
            {"--auth.mode": "jwt", "--auth.secret": "short"},
            "auth.secret: shorter than 32 bytes: it can be guessed (RFC 7518, 3.2)",
        ),
    ],
)
def test_a_key_that_has_no_effect_or_too_little_warns_once(flags: dict[str, str], warning: str) -> None:
    assert warnings(load(flags=flags)) == [warning]


@pytest.mark.parametrize(
    "flags",
    [
        {"--auth.resume_secret": "x"},
        {"--presence.ttl_ms": "40000"},
        {"--server.compression": "true"},
        {"--api.key": "k"},
        {"--presence.last_seen_ms": "1"},
        {"--auth.mode": "jwt", "--auth.secret": SECRET},
        {"--auth.mode": "session"},
    ],
)
def test_a_key_that_is_read_warns_of_nothing(flags: dict[str, Any]) -> None:
    assert warnings(load(flags=flags)) == []


def test_no_authentication_beyond_loopback_warns_loudly() -> None:
    assert warnings(load(flags={"--host": ANY})) == [
        'DANGER: auth.mode is "none" and server.host is "0.0.0.0": '
        "anybody who can reach the client port can be any user"
    ]
    assert not any(
        "DANGER" in line for line in warnings(load(flags={"--host": "::", "--auth.mode": "session"}))
    )


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({}, "auth.mode: HS256 needs auth.secret, which is not set"),
        (
            {"auth__algorithms": "RS256"},
            "auth.algorithms: RS256 needs auth.public_key or auth.jwks_url; neither is set",
        ),
        (
            {"auth__algorithms": "HS256,ES256", "auth__secret": SECRET},
            "auth.algorithms: ES256 needs auth.public_key or auth.jwks_url; neither is set",
        ),
    ],
)
def test_an_algorithm_without_a_key_would_let_nobody_in(flags: dict[str, str], problem: str) -> None:
    assert found(auth__mode="jwt", **flags) == [problem]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("nowhere.pem", "cannot read nowhere.pem: No such file or directory"),
        (str(TLS / "cert.pem"), "this is no PEM public key (-----BEGIN PUBLIC KEY-----)"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA", "this is no PEM public key (-----BEGIN PUBLIC KEY-----)"),
        (weak_key(), "an RSA key of 1024 bits, fewer than 2048"),
    ],
)
def test_a_public_key_that_cannot_be_used_is_found_at_start(key: str, problem: str) -> None:
    assert found(auth__public_key=key) == [f"auth.public_key: {problem}"]


def test_a_jwks_url_is_a_url() -> None:
    assert found(auth__jwks_url="keys.json") == ['auth.jwks_url: "keys.json" is no http:// or https:// URL']


def test_a_rule_for_backends_has_a_name_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[[throttle.rules]]\nname = "connect"\nlimit = "1/1s"\n')
    with pytest.raises(ConfigError, match=r"line 2.*is a limit of this server itself"):
        load(config)


def test_no_warning_repeats_a_secret() -> None:
    flags = {"--api.key": "hunter2", "--auth.secret": "hunter2", "--redis-url": "redis://:hunter2@h"}
    assert "hunter2" not in "\n".join(warnings(load(flags=flags)))


def test_a_proxy_header_and_tls_exclude_each_other() -> None:
    tls = Path(__file__).parent / "tls"
    (problem, *_) = found(
        proxy__protocol="true", server__tls_cert=str(tls / "cert.pem"), server__tls_key=str(tls / "key.pem")
    )
    assert "comes before TLS" in problem


@pytest.mark.parametrize(("limit", "good"), [("10000/60s", True), ("10001/60s", False)])
def test_a_sliding_log_has_an_end(limit: str, good: bool) -> None:
    problems = found(throttle__algorithm="sliding", throttle__connect=limit)
    assert problems == (
        [] if good else [f'throttle.connect: "{limit}": a sliding log counts to 10000 at most']
    )
