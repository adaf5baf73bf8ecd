"""A backend that calls the internal port."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from tests.support.node import Node

TIMEOUT = aiohttp.ClientTimeout(total=30)


class Answer(NamedTuple):
    """What a call was answered with."""

    status: int
    body: Any
    headers: Mapping[str, str]


async def call(
    node: Node,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> Answer:
    """Make one call; `path` goes as it is. `body` is sent as JSON, `data` as it is."""
    url = URL(node.api_url + path, encoded=True)
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.request(method, url, json=body, data=data and io.BytesIO(data), headers=headers) as response,
    ):
        kind = response.content_type
        read = await response.read()
        decoded = await response.json(content_type=None) if kind.endswith("json") and read else read
        return Answer(response.status, decoded, response.headers)
