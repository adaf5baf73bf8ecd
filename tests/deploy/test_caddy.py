"""`deploy/caddy/Caddyfile`, with the real Caddy."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.site import answers, site
from tests.support.daemon import LOOPBACK, find_program
from tests.support.front import DEPLOY
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


def test_caddy_takes_the_file(tmp_path: Path) -> None:
    command = [find_program("caddy"), "adapt", "--adapter", "caddyfile", "--validate", "--config"]
    env = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command.append(str(DEPLOY / "caddy" / "Caddyfile"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Caddyfile input is not formatted" not in done.stderr
    for probe in ("/readyz", "/readyz?isolated=ok"):
        assert f'"uri":"{probe}"' in done.stdout.replace(" ", "")


async def test_caddy_tells_who_a_client_is_and_finds_nodes_also_where_none_is_ready(tmp_path: Path) -> None:
    limited = ("--throttle.connect", "2/600s", "--throttle.allow", f'["{LOOPBACK}"]')
    patient = ("--throttle.deadline_ms", "5000")  # else a busy machine has each node count alone
    async with site("caddy", tmp_path, *limited, *patient) as behind:
        await behind.in_use(*behind.nodes)
        lies = [{"X-Forwarded-For": f"203.0.113.{i}"} for i in range(3)]
        statuses = [await behind.try_handshake(source="127.0.0.51", headers=lie) for lie in lies]
        assert statuses == [101, 101, 429]
        behind.networks[0].cut()
        await eventually(lambda: behind.nodes_of(6), lambda reached: reached == {behind.nodes[1].id})
        behind.networks[1].cut()
        for node in behind.nodes:
            await answers(node, 503)
        await behind.in_use(*behind.nodes)
