"""The Dockerfile, as far as it can be tried in seconds.

What only an image shows (its user, its root, process 1) is in deploy/container/try.sh, which builds one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import anyio
import pytest

from tests.support.api import call
from tests.support.node import PROJECT, Node

pytestmark = pytest.mark.anyio

DOCKERFILE: Final = (PROJECT / "Dockerfile").read_text()
BIN: Final = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in order, each with what follows it."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(verb, rest) for verb, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final(verb: str) -> str:
    """Return what the last instruction of a kind says."""
    return [rest for name, rest in instructions() if name == verb][-1]


def test_hadolint_finds_nothing() -> None:
    command = [str(BIN / "hadolint"), "--no-color", str(PROJECT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    copied = {
        source
        for verb, rest in instructions()
        if verb == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    rules = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] not in {"", "#"}
    ]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((PROJECT / name).exists() for name in copied)


async def test_what_the_image_starts_is_healthy_until_it_is_told_to_end(tmp_path: Path) -> None:
    environment = dict(pair.split("=", 1) for pair in final("ENV").split())
    start = json.loads(final("ENTRYPOINT")) + json.loads(final("CMD"))
    assert start == ["presence-server", "serve"]
    assert int(final("USER").partition(":")[0]) > 0
    health = json.loads(final("HEALTHCHECK").partition("CMD ")[2])
    async with Node(tmp_path, env=environment) as node:
        assert (await call(node, "GET", "/healthz")).status == 200
        assert "anybody" in node.log  # the host is 0.0.0.0, with a warning
        asked = {"PATH": f"{BIN}:{os.environ['PATH']}", "PRESENCE_SERVER__API_PORT": str(node.api_port)}
        await anyio.run_process(health, env=asked)
    gone = await anyio.run_process(health, env=asked, check=False)
    assert gone.returncode != 0
