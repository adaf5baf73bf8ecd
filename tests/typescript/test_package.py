"""The TypeScript client: its types, its own tests against real servers, and the files of it that the server serves."""

import os
import subprocess
import sys

import pytest

from tests.typescript.conftest import PACKAGE

DEADLINE_S = 600


def run(*command: str) -> str:
    """Run a command in the package's folder; return what it printed, and fail with it where the command fails."""
    environment = os.environ | {"PRESENCE_PYTHON": sys.executable, "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        cwd=PACKAGE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_files_that_the_server_serves_are_what_the_sources_make_and_below_8_kib(node_js: str) -> None:
    assert "presence-1.js" in run(node_js, "build.mjs", "--check")


def test_the_types_fit_together(node_js: str) -> None:
    run(node_js, "node_modules/typescript/bin/tsc", "--noEmit")


def test_the_reference_is_what_the_types_say(node_js: str) -> None:
    run(node_js, "reference.mjs", "--check")


@pytest.mark.early
def test_its_own_tests_pass_in_node_js(node_js: str) -> None:
    assert "passed" in run(node_js, "node_modules/vitest/vitest.mjs", "run")
