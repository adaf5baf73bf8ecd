from collections.abc import AsyncIterator

import pytest

from tests.support.node import Node

KEY = "the key of the internal port"
RULES = '[[throttle.rules]]\nname = "login"\nlimit = "3/600s"\n'


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One server on its own for all tests of a file, without a key."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "rules.toml").write_text(RULES)
    async with Node(folder, "--config", str(folder / "rules.toml")) as node:
        yield node


@pytest.fixture(scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One that needs a key."""
    async with Node(tmp_path_factory.mktemp("keyed"), "--api.key", KEY) as node:
        yield node
