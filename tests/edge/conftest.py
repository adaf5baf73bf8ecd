from collections.abc import AsyncIterator

import pytest

from presence_server.config.settings import LimitsSettings
from tests.support.door import Door
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
    args = (*UNTHROTTLED, "--limits.handshake_ms", "2000")
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """The client port without sockets; a connection's outbox is small."""
    async with Door(limits=LimitsSettings(outbox_soft_bytes=4_096, outbox_hard_bytes=65_536)) as door:
        yield door
