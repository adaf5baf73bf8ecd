from collections.abc import AsyncIterator

import pytest

from tests.support.node import Node


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One server for all tests of a file. Its limits on rates are off: what holds is what each test is about."""
    async with Node(tmp_path_factory.mktemp("node")) as node:
        yield node
        assert "Traceback" not in node.log
        assert "connection failed" not in node.log
