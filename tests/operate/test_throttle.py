"""`presence-server throttle …`, as a real process, against a real server."""

import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from tests.docs.pages import code, read, section
from tests.support.node import Node
from tests.test_cli import run

pytestmark = pytest.mark.anyio

KEY = "a key of the internal port"
RULES = '[throttle]\ndecision_log = 100\n[[throttle.rules]]\nname = "login"\nlimit = "3/600s"\n'


@pytest.fixture
async def node(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Node]:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "key").write_text(f"{KEY}\nan older key\n")
    async with Node(
        tmp_path, "--config", str(tmp_path / "rules.toml"), "--api.key_file", str(tmp_path / "key")
    ) as node:
        yield node


async def operate(node: Node, *arguments: str, key: bool = True) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it wrote."""
    command = ["throttle", *arguments, "--api", node.api_url]
    command += ["--key-file", str(node.log_path.parent / "key")] if key else []
    done = await anyio.to_thread.run_sync(lambda: run(*command))
    return done.returncode, done.stdout, done.stderr


async def test_rules_and_lists_are_changed_and_shown(node: Node) -> None:
    assert await operate(node, "set-rule", "search", "10/60s", "--algorithm", "sliding", "--block", "2m") == (
        *(0, "policy version 1\n"),
        "",
    )
    await operate(node, "set-rule", "login", "1000/day", "--tz", "Europe/Berlin", "--shadow")
    await operate(
        node, "deny", "--network", "203.0.113.0/24", "--rule", "login", "--for", "1h", "--note", "a botnet"
    )
    await operate(node, "allow", "--key", "the office")
    code, text, _ = await operate(node, "show")
    assert code == 0
    lines = text.splitlines()
    assert lines[:2] == ["policy version 4", f"node {node.id} goes by version 4"]
    assert "rule search 10/60s sliding, block 120000 ms, from the policy" in lines
    assert "rule login 1000/day fixed, Europe/Berlin, shadow, from the policy" in lines
    assert "allow key the office" in lines
    (denied,) = [line for line in lines if line.startswith("deny")]
    assert denied.startswith("deny network 203.0.113.0/24 under login until 1")
    assert denied.endswith("(a botnet)")
    assert (await operate(node, "remove", "--key", "the office"))[1] == "policy version 5\n"
    assert (await operate(node, "remove-rule", "login"))[1] == "policy version 6\n"
    policy = json.loads((await operate(node, "show", "--json"))[1])["policy"]
    assert ([rule["name"] for rule in policy["rules"]], policy["allow"], len(policy["deny"])) == (
        ["search"],
        [],
        1,
    )


async def test_keys_are_looked_at_blocked_reset_and_counted(node: Node) -> None:
    assert (await operate(node, "peek", "login", "eve"))[1] == "admitted, 3 of 3 left (local)\n"
    await operate(node, "block", "login", "eve", "10m")
    code, text, _ = await operate(node, "peek", "login", "eve")
    assert (code, text.startswith("refused for ")) == (0, True)
    assert (await operate(node, "reset", "login", "eve"))[1] == "admitted, 3 of 3 left (local)\n"
    assert (await operate(node, "top", "--scope", "node"))[1].startswith("hits on 1 node(s) in ")
    assert "0 of 0 hits" in (await operate(node, "dry-run", "login", "1/600s"))[1]


async def test_what_fails_says_why_and_with_which_code(node: Node, tmp_path: Path) -> None:
    for arguments, expected, reason in (
        (("set-rule", "login", "5 a day"), 1, "422: the policy: rules[0]: rule 'login': limit '5 a day'"),
        (("remove-rule", "nothing"), 1, "404: the policy has no rule 'nothing'"),
        (("block", "login", "eve", "soon"), 2, '"soon" is no duration'),
        (("deny", "--key", "a", "--network", "10.0.0.1"), 2, "not allowed with"),
        (("deny",), 2, "one of the arguments --key --network is required"),
        (("burn",), 2, "invalid choice"),
        (("show", "more"), 2, "unexpected argument 'more'"),
    ):
        code, text, errors = await operate(node, *arguments)
        assert (code, text) == (expected, "")
        assert reason in errors
    code, _, errors = await operate(node, "show", key=False)
    assert (code, "401: Authorization" in errors) == (1, True)
    for url, expected, reason in (
        ("http://127.0.0.1:1", 1, "http://127.0.0.1:1 cannot be asked:"),
        (node.http_url, 1, "404: there is nothing at /v1/throttle/policy"),
        ("ftp://x", 2, '"ftp://x" is no http:// or https:// URL'),
        ("http://127.0.0.1:port", 2, "port"),
    ):
        done = await anyio.to_thread.run_sync(partial(run, "throttle", "show", "--api", url))
        assert (done.returncode, reason in done.stderr) == (expected, True), done.stderr
    done = await anyio.to_thread.run_sync(
        lambda: run("throttle", "show", "--key-file", str(tmp_path / "none"))
    )
    assert (done.returncode, "none" in done.stderr) == (2, True)


async def test_the_documentations_commands_work_as_they_are_written(node: Node, tmp_path: Path) -> None:
    (text,) = code(section(read("docs/throttle.md"), "### From the command line"), "sh")
    text = text.replace("http://10.0.0.5:8081", node.api_url).replace(
        "/etc/presence/api.key", str(tmp_path / "key")
    )
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = await anyio.run_process(
        ["sh", "-e", "-c", text], check=False, env=os.environ | environ, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()
    assert "policy version 5" in done.stdout.decode()
