"""Layers, and everything that can be wrong in each of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from presence_server.config import RoomSettings, Settings, ThrottleRule, load
from presence_server.config.setting_keys import FLAGS, KEYS, VARIABLES
from presence_server.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write `p.toml` into a directory of its own, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> Path:
        path = Path("p.toml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def problems(
    path: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ, flags)
    return caught.value.problems


# --- layers ---


def test_without_anything_the_defaults_hold() -> None:
    assert load() == Settings()


def test_an_empty_file_changes_nothing(write: Write) -> None:
    assert load(write("")) == Settings()


def test_each_layer_wins_over_the_next(write: Write) -> None:
    path = write("[server]\nport = 1\n")
    environ, flags = {"PRESENCE_SERVER__PORT": "2"}, {"--server.port": "3"}
    assert load().server.port == 8080
    assert load(path).server.port == 1
    assert load(path, environ).server.port == 2
    assert load(path, environ, flags).server.port == 3
    assert load(path, {}, flags).server.port == 3


def test_a_key_of_one_layer_leaves_its_neighbours_to_the_others(write: Write) -> None:
    server = load(
        write('[server]\nworkers = "auto"\n'), {"PRESENCE_SERVER__DEMO": "false"}, {"--port": "5"}
    ).server
    assert (server.workers, server.demo, server.port, server.host) == ("auto", False, 5, "127.0.0.1")


@pytest.mark.parametrize(
    ("flag", "path", "text", "value"),
    [
        ("--host", "server.host", "::1", "::1"),
        ("--port", "server.port", "0", 0),
        ("--api-host", "server.api_host", "localhost", "localhost"),
        ("--api-port", "server.api_port", "9", 9),
        ("--redis-url", "redis.url", "redis://h", "redis://h"),
        ("--workers", "server.workers", "1", 1),
    ],
)
def test_short_flags_set_their_keys(flag: str, path: str, text: str, value: object) -> None:
    section, name = path.split(".")
    assert getattr(getattr(load(flags={flag: text}), section), name) == value


def test_every_key_can_be_set_by_variable_and_by_flag_to_its_default() -> None:
    def written(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return ",".join(value) if isinstance(value, list) else str(value)

    keys = [key for key in KEYS.values() if not key.file_only]
    assert len(keys) > 55
    assert load(environ={key.variable: written(key.default) for key in keys}) == Settings()
    assert load(flags={key.flag: written(key.default) for key in keys}) == Settings()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", []),
        ("https://a.b", ["https://a.b"]),
        ("https://a.b, https://c.d", ["https://a.b", "https://c.d"]),
        ('["https://a.b","https://c.d"]', ["https://a.b", "https://c.d"]),
        ("[]", []),
    ],
)
def test_a_list_is_texts_with_commas_or_json(text: str, value: list[str]) -> None:
    assert load(environ={"PRESENCE_SERVER__ORIGINS": text}).server.origins == value
    assert load(flags={"--server.origins": text}).server.origins == value


def test_variables_with_one_underscore_are_not_ours() -> None:
    environ = {"PRESENCE_SERVER_PORT": "tcp://10.0.0.1:80", "PRESENCE_PORT": "x", "OTHER__KEY": "y"}
    assert load(environ=environ) == Settings()


def test_lists_of_tables_come_from_the_file(write: Write) -> None:
    settings = load(
        write(
            '[[rooms]]\npattern = "a:*"\nmode = "count"\nallow = ["watch"]\n[[rooms]]\nmembers_max = 5\n'
            '[[throttle.rules]]\nname = "login"\nlimit = "5/60s"\nalgorithm = "sliding"\nblock_ms = 60000\n'
        )
    )
    assert settings.rooms == [
        RoomSettings(pattern="a:*", mode="count", allow=["watch"]),
        RoomSettings(members_max=5),
    ]
    assert settings.throttle.rules == [
        ThrottleRule(name="login", limit="5/60s", algorithm="sliding", block_ms=60_000)
    ]


def test_the_whole_file_of_the_contract_is_the_defaults(write: Write) -> None:
    path = write(
        """
[server]
host = "127.0.0.1"
port = 8080
api_host = "127.0.0.1"
api_port = 8081
workers = 1
max_connections = 10000
drain_ms = 30000
drain_delay_ms = 0
origins = []
tls_cert = ""
tls_key = ""
compression = false
demo = true
[redis]
url = ""
prefix = "ps"
[presence]
ttl_ms = 30000
heartbeat_ms = 10000
grace_clean_ms = 3000
grace_lost_ms = 15000
resume_ms = 86400000
ping_ms = 15000
ping_timeout_ms = 15000
last_seen_ms = 604800000
[limits]
message_bytes = 16384
state_bytes = 4096
info_bytes = 1024
rooms = 100
handshake_ms = 5000
outbox_soft_bytes = 65536
outbox_hard_bytes = 1048576
outbox_hard_ms = 30000
[throttle]
connect = "60/60s"
resume = "600/60s"
messages = "50/1s burst 100"
updates = ""
publishes = ""
concurrent_per_ip = 200
algorithm = "fixed"
block_ms = 0
on_error = "open"
deadline_ms = 50
deny = "http"
ipv6_prefix = 64
allow = []
shadow = false
[proxy]
trusted = []
header = "x-forwarded-for"
protocol = false
[auth]
mode = "none"
secret = ""
secrets = []
public_key = ""
algorithms = ["HS256"]
jwks_url = ""
audience = ""
issuer = ""
resume_secret = ""
[api]
key = ""
"""
    )
    assert load(path) == Settings()
    rooms = load(
        write(
            '[[rooms]]\npattern = "*"\nmode = "full"\nfull_max = 1000\nmembers_max = 0\n'
            'allow = ["join","watch","publish","update","signal"]\n'
        )
    ).rooms
    assert rooms == [RoomSettings()]


# --- what is wrong in the file ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[server]\n\nprot = 1",
            "p.toml, line 3: server.prot: unknown key; the nearest valid name is server.port",
        ),
        (
            "[server]\nttl_ms = 1",
            "p.toml, line 2: server.ttl_ms: unknown key; the nearest valid name is presence.ttl_ms",
        ),
        ("\n[serve]\nport = 1", "p.toml, line 2: serve: unknown section; the nearest valid name is server"),
        (
            "ping_ms = 1",
            "p.toml, line 1: ping_ms: unknown section; the nearest valid name is presence.ping_ms",
        ),
        ("server = 1", "p.toml, line 1: server: expected a table, begun with [server]"),
        ("[rooms]", "p.toml, line 1: rooms: expected a list of tables, each begun with [[rooms]]"),
        (
            "[throttle]\nrules = [1]",
            "p.toml, line 2: throttle.rules: expected a list of tables, each begun with [[throttle.rules]]",
        ),
        (
            '[server]\nport = "80"',
            'p.toml, line 2: server.port: expected an integer from 0 to 65535, got "80"',
        ),
        (
            "[server]\nport = 65536",
            "p.toml, line 2: server.port: expected an integer from 0 to 65535, got 65536",
        ),
        (
            "[server]\nport = true",
            "p.toml, line 2: server.port: expected an integer from 0 to 65535, got true",
        ),
        (
            "[presence]\nping_ms = 0",
            "p.toml, line 2: presence.ping_ms: expected an integer from 1 to 31622400000, got 0",
        ),
        (
            "[presence]\nping_ms = 99999999999999999999999",
            "p.toml, line 2: presence.ping_ms: expected an integer from 1 to 31622400000, "
            "got 99999999999999999999999",
        ),
        ("[server]\ndemo = 1", "p.toml, line 2: server.demo: expected true or false, got 1"),
        (
            "[server]\ndemo = 1979-05-27",
            "p.toml, line 2: server.demo: expected true or false, got 1979-05-27",
        ),
        ('[server]\norigins = "*"', 'p.toml, line 2: server.origins: expected a list of texts, got "*"'),
        (
            '[auth]\nmode = "jvt"',
            'p.toml, line 2: auth.mode: expected one of jwt, none, session, got "jvt"; '
            "the nearest valid name is jwt",
        ),
        (
            '[[rooms]]\n[[rooms]]\nallow = ["join", "publsh"]',
            "p.toml, line 3: rooms[1].allow: expected a list of join, publish, signal, update, watch, "
            'got ["join", "publsh"]; the nearest valid name is publish',
        ),
        (
            "[[rooms]]\nmode = 'full'\nmebers_max = 3",
            "p.toml, line 3: rooms[0].mebers_max: unknown key; "
            "the nearest valid name is rooms[0].members_max",
        ),
        ('\n[[throttle.rules]]\nname = "x"', "p.toml, line 2: throttle.rules[0].limit: missing"),
        ("a = 1\nb = = 2", "p.toml, line 2: not TOML: Invalid value"),
        ("[server]\nport = 1\nport = 2\n", "p.toml, line 3: not TOML: Cannot overwrite a value"),
    ],
)
def test_a_problem_in_the_file_has_line_key_and_nearest_name(write: Write, text: str, problem: str) -> None:
    assert problems(write(text)) == [problem]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert problems(missing) == [f"{missing}: cannot read the file: No such file or directory"]
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"[server]\nhost = '\xff'\n")
    assert problems(bad) == [f"{bad}, line 2: not UTF-8"]


def test_deep_nesting_is_a_problem_and_not_a_crash(write: Write) -> None:
    assert problems(write("a = " + "[" * 100_000)) != []


# --- what is wrong in the environment and the flags ---


def test_unknown_variables_and_flags_have_their_nearest_name() -> None:
    assert problems(environ={"PRESENCE_SERVER__PROT": "1"}) == [
        "variable PRESENCE_SERVER__PROT: unknown variable; the nearest valid name is PRESENCE_SERVER__PORT"
    ]
    assert problems(flags={"--server.prot": "1"}) == [
        "flag --server.prot: unknown flag; the nearest valid name is --server.port"
    ]


def test_wrong_values_name_the_variable_or_the_flag() -> None:
    assert problems(environ={"PRESENCE_SERVER__PORT": "eighty"}) == [
        'variable PRESENCE_SERVER__PORT: server.port: expected an integer from 0 to 65535, got "eighty"'
    ]
    assert problems(flags={"--port": "-1"}) == [
        "flag --port: server.port: expected an integer from 0 to 65535, got -1"
    ]
    assert problems(flags={"--server.demo": "yes"}) == [
        'flag --server.demo: server.demo: expected true or false, got "yes"'
    ]


def test_one_key_by_two_flags_is_a_problem() -> None:
    assert problems(flags={"--port": "1", "--server.port": "2"}) == [
        "flag --server.port: server.port: given by flag --port already"
    ]


def test_what_is_not_utf_8_is_refused_outside_the_file_too() -> None:
    kept = b"k\xff".decode(errors="surrogateescape")
    assert problems(environ={"PRESENCE_API__KEY": kept}) == [
        "variable PRESENCE_API__KEY: api.key: is not UTF-8"
    ]
    assert problems(flags={"--redis.prefix": kept}) == ["flag --redis.prefix: redis.prefix: is not UTF-8"]


def test_lists_of_tables_are_refused_outside_the_file() -> None:
    only = "throttle.rules: a list of tables can be set in the file only"
    assert problems(environ={"PRESENCE_THROTTLE__RULES": "[]"}) == [
        f"variable PRESENCE_THROTTLE__RULES: {only}"
    ]
    assert problems(flags={"--throttle.rules": "[]"}) == [f"flag --throttle.rules: {only}"]


def test_a_secret_is_never_repeated(write: Write) -> None:
    path = write('[auth]\nsecret = ["hunter2"]\nsecrets = "hunter2"\n[api]\nkey = 1234567\n')
    said = "\n".join(problems(path, {"PRESENCE_AUTH__SECRETS": '["hunter2", 1]'}, {"--redis-url": "hunter2"}))
    assert said.count("\n") == 4
    assert "hunter2" not in said
    assert "1234567" not in said


# --- everything at once ---


def test_every_problem_of_every_layer_is_reported_at_once(write: Write) -> None:
    path = write("[server]\nprot = 1\nworkers = 0\n[presence]\nttl_ms = 20000\n")
    assert problems(path, {"PRESENCE_API__KY": "x"}, {"--limits.rooms": "0"}) == [
        "p.toml, line 2: server.prot: unknown key; the nearest valid name is server.port",
        "p.toml, line 3: server.workers: expected an integer from 1 to 1024 or auto, got 0",
        "variable PRESENCE_API__KY: unknown variable; the nearest valid name is PRESENCE_API__KEY",
        "flag --limits.rooms: limits.rooms: expected an integer from 1 to 10000000, got 0",
        "p.toml, line 5: presence.ttl_ms: 3 times presence.heartbeat_ms (10000) must not be more than "
        "presence.ttl_ms (20000)",
    ]


def test_a_wrong_value_is_reported_though_a_higher_layer_wins(write: Write) -> None:
    assert len(problems(write("[server]\nport = -1\n"), {}, {"--port": "1"})) == 1


def test_a_file_that_is_not_toml_does_not_hide_the_other_layers(write: Write) -> None:
    found = problems(write("["), {"PRESENCE_SERVER__PORT": "x"}, {"--nonsense": "1"})
    assert [line.split(":")[0] for line in found] == [
        "p.toml, line 1", "variable PRESENCE_SERVER__PORT", "flag --nonsense",
    ]  # fmt: skip


def test_no_rule_is_checked_on_a_key_that_failed(write: Write) -> None:
    assert problems(write('[presence]\nheartbeat_ms = 20000\nttl_ms = "60000"\n')) == [
        'p.toml, line 3: presence.ttl_ms: expected an integer from 1 to 31622400000, got "60000"'
    ]
    assert problems(write("[presence]\nheartbeat_ms = 20000\ntll_ms = 60000\n")) == [
        "p.toml, line 3: presence.tll_ms: unknown key; the nearest valid name is presence.ttl_ms"
    ]


# --- secrets in files ---


def test_a_secret_is_read_from_its_file(write: Write) -> None:
    Path("key").write_text("k 1\n", encoding="utf-8")
    Path("old").write_text("a\nb\n", encoding="utf-8")
    path = write('[api]\nkey_file = "key"\n[auth]\nsecrets_file = "old"\nsecret_file = "key"\n')
    settings = load(path, {"PRESENCE_AUTH__RESUME_SECRET_FILE": "key"})
    assert settings.api.key == settings.auth.secret == settings.auth.resume_secret == "k 1"
    assert settings.auth.secrets == ["a", "b"]


@pytest.mark.parametrize("content", ["", "\n", " \n\n"])
def test_an_empty_file_of_older_secrets_means_that_there_are_none(write: Write, content: str) -> None:
    Path("old").write_text(content, encoding="utf-8")
    assert load(write('[auth]\nsecret = "k"\nsecrets_file = "old"\n')).auth.secrets == []


def test_a_secret_and_its_file_in_one_layer_are_refused_and_the_higher_layer_wins(write: Write) -> None:
    Path("key").write_text("from file\n", encoding="utf-8")
    assert problems(write('[api]\nkey = "x"\nkey_file = "key"\n')) == [
        "p.toml, line 3: api.key_file: api.key is set too (p.toml, line 2); set one of them"
    ]
    assert load(write('[api]\nkey_file = "key"\n'), {"PRESENCE_API__KEY": "x"}).api.key == "x"
    assert load(write('[api]\nkey = "x"\n'), {"PRESENCE_API__KEY_FILE": "key"}).api.key == "from file"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read key: No such file or directory"),
        (b"\n", "key is empty"),
        (b"a\nb\n", "key has more than one line"),
        (
            b"\xff\n",
            "cannot read key: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_a_problem(
    write: Write, content: bytes | None, problem: str
) -> None:
    if content is not None:
        Path("key").write_bytes(content)
    found = problems(write('[auth]\nresume_secret_file = "key"\n'))
    assert found == [f"p.toml, line 2: auth.resume_secret_file: {problem}"]


def test_several_keys_of_the_api_are_one_a_line(write: Write) -> None:
    Path("key").write_bytes(b"one\n\nanother\n")
    assert load(write('[api]\nkey_file = "key"\n')).api.key == "one\nanother"


def test_each_name_of_a_key_is_one_of_a_kind() -> None:
    assert len(VARIABLES) == len(KEYS)
    assert len(FLAGS) == len(KEYS) + 6
    assert KEYS["throttle.ipv6_prefix"].variable == "PRESENCE_THROTTLE__IPV6_PREFIX"
