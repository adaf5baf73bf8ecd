"""Runs of tests on a copy: each in a fork, none of which outlives its deadline."""

import sys
import time
from pathlib import Path

import pytest

from mutation import trial
from mutation.trial import Verdict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\naddopts = ['--import-mode=importlib']\n"
    )
    return tmp_path


def verdict_on(copy: Path, test: str, deadline_s: float = 60) -> Verdict:
    (copy / "test_it.py").write_text(test)
    running = trial.start(copy, ["test_it.py"])
    while (verdict := trial.ended(running, deadline_s)) is None:
        time.sleep(trial.POLL_S)
    return verdict


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("def test(): assert 1 + 1 == 2", Verdict.SURVIVED),
        ("def test(): assert 1 + 1 == 3", Verdict.FAILED),
        ("import no_such_module", Verdict.BROKEN),
        ("no test", Verdict.BROKEN),
    ],
)
def test_a_run_says_whether_a_test_failed(copy: Path, test: str, verdict: Verdict) -> None:
    assert verdict_on(copy, test) is verdict


def test_a_run_that_does_not_end_is_ended(copy: Path) -> None:
    assert verdict_on(copy, "def test():\n while True: pass", deadline_s=1) is Verdict.TIMEOUT
