"""deploy/systemd: systemd accepts the unit and finds it tight, and its times and limits are those of the settings."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from presence_server.config import Settings, load
from presence_server.workers.supervisor import END_S
from tests.support.daemon import find_program
from tests.support.node import PROJECT

FOLDER: Final = PROJECT / "deploy" / "systemd"
UNIT: Final = (FOLDER / "presence-server.service").read_text()
INSTALLED: Final = "/opt/presence-server/bin"
EXPOSURE_MAX: Final = 1.2
"""Of systemd-analyze security, from 0 to 10; a unit without any sandboxing has 9.6."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit as a file that starts this project's own program: systemd wants to see one."""
    file = tmp_path / "presence-server.service"
    assert INSTALLED in UNIT
    file.write_text(UNIT.replace(INSTALLED, str(Path(sys.executable).parent)))
    return file


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return what the node of the unit reads."""
    keys = {}
    for variable, name in re.findall(r"^Environment=(PRESENCE_\w+)=%d/(.+)$", UNIT, re.MULTILINE):
        keys[variable] = str(tmp_path / name)
        (tmp_path / name).write_text("k" * 64)
        assert f"LoadCredential={name}:/etc/presence-server/{name}\n" in UNIT
    assert len(keys) == 2
    return load(str(FOLDER / "presence.toml"), keys, {})


def said(name: str) -> str:
    """Return what the unit says of something."""
    (value,) = re.findall(rf"^{name}=(.+)$", UNIT, re.MULTILINE)
    return str(value)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_program("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_little_that_the_node_may_do(unit: Path) -> None:
    done = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(unit)
    )
    assert done.returncode == 0, done.stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAX


def test_a_drain_ends_before_systemd_loses_patience(settings: Settings) -> None:
    drain_ms = settings.server.drain_delay_ms + settings.server.drain_ms
    assert drain_ms + 2 * END_S * 1000 < int(said("TimeoutStopSec")) * 1000 <= drain_ms + 15_000
    assert settings.server.drain_delay_ms > 0
    assert (said("KillSignal"), said("KillMode")) == ("SIGTERM", "mixed")


def test_the_limit_of_files_is_enough_for_the_connections(settings: Settings) -> None:
    assert int(said("LimitNOFILE")) >= settings.server.max_connections + settings.limits.pending + 320
