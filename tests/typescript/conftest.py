"""What the tests of the TypeScript client need: Node.js, and the packages that `make test` installs with npm."""

import os
import shutil
from pathlib import Path

import pytest

from tests.docs.conftest import browser

__all__ = ["browser"]  # a fixture
PACKAGE = Path(__file__).parents[2] / "clients/typescript"


@pytest.fixture(scope="session")
def node_js() -> str:
    """Where Node.js is; without it and its packages the tests are skipped, except where CI is set."""
    reason = ""
    path = shutil.which("node")
    if path is None:
        reason = "NO NODE.JS, THE TYPESCRIPT CLIENT IS NOT TESTED: node is not on the PATH"
    elif not (PACKAGE / "node_modules/vitest").is_dir():
        reason = "NO PACKAGES, THE TYPESCRIPT CLIENT IS NOT TESTED: `make test` installs them, with npm"
    if path is not None and not reason:
        return path
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
