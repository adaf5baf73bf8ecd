"""`deploy/caddy/Caddyfile`, read by the real Caddy, which makes every part that it names."""

import os
import subprocess
from pathlib import Path

from tests.support.daemon import find_program
from tests.support.front import DEPLOY


def test_caddy_takes_the_file(tmp_path: Path) -> None:
    command = [find_program("caddy"), "adapt", "--adapter", "caddyfile", "--validate", "--config"]
    env = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command.append(str(DEPLOY / "caddy" / "Caddyfile"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Caddyfile input is not formatted" not in done.stderr
    for probe in ("/readyz", "/readyz?isolated=ok"):
        assert f'"uri":"{probe}"' in done.stdout.replace(" ", "")
