from collections.abc import AsyncIterator

import pytest

from tests.support.node import Node

UNTHROTTLED: tuple[str, ...] = (
    "--throttle.connect",
    "",
    "--throttle.concurrent_per_ip",
    "0",
    "--throttle.messages",
    "",
)
"""Attacks come from one address, and the throttle must not be what ends them."""


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One server for all tests of a file, each in rooms of its own."""
    args = (*UNTHROTTLED, "--limits.handshake_ms", "500")
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node
