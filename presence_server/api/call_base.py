"""The common part of all calls: the node, checked names and documents, and answers that a store gives by callback."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import anyio

from presence_server.api.dependencies import ApiDependencies
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import CheckedRequest
from presence_server.auth.identity import checked_user
from presence_server.errors import StoreAwayError
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Document

ANSWER_S: Final = 5.0
"""The longest that a call waits for a store that answers by callback."""


class CallBase:
    """The calls of one part of the API; `Calls` is all of them."""

    def __init__(self, node: ApiDependencies) -> None:
        self._node = node

    @staticmethod
    def _user(asked: CheckedRequest) -> str:
        return checked_user(asked.path["user"])

    def _room(self, asked: CheckedRequest) -> str:
        room = asked.path["room"]
        self._node.rooms.check(room)
        return room

    def _data(self, data: object) -> Document:
        return self._document("data", data, self._node.rooms.limits.message_bytes)

    @staticmethod
    def _document(name: str, value: object, bytes_max: int) -> Document:
        try:
            raw = document(value)
        except ValueError as exc:
            raise ProblemError(422, f"in the body: {name}: {exc}", "bad_message") from None
        if len(raw) > bytes_max:
            raise ProblemError(413, f"{name} is {len(raw)} bytes, more than {bytes_max}", "too_large")
        return raw

    async def _answer(self, ask: Callable[[Callable[[Any], None]], None], tag: str | None = None) -> Any:
        """Return what a store answers by callback.

        Raises `StoreAwayError` where the shared one is not there, or the part of it that has the room or the cid `tag`.
        """
        if self._is_isolated(tag):
            raise StoreAwayError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ask(lambda value: None if answer.done() else answer.set_result(value))
        with anyio.move_on_after(ANSWER_S):
            answered = await answer
            if not self._is_isolated(tag):
                return answered
        raise StoreAwayError

    def _is_isolated(self, tag: str | None) -> bool:
        return self._node.is_isolated() if tag is None else self._node.is_part_isolated(tag)
