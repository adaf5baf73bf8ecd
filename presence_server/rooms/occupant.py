"""A connection as rooms see it, and its membership of one of them."""

from typing import TYPE_CHECKING

import msgspec

from presence_server.errors import RequestError
from presence_server.grants import Grants
from presence_server.hub.channel import Watcher
from presence_server.hub.outbox import REQUEST_BYTES, Outbox
from presence_server.protocol.messages import Document, Error, Mode, Ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_server.rooms.view import View


class Membership(Watcher):
    """One connection in one room: always a watcher, a member too where `you` is true.

    `state` and `v` are the member's as its owner last set them; this connection is their only writer.
    """

    __slots__ = ("at", "deferred", "occupant", "state", "v", "view")

    def __init__(self, view: "View", occupant: "Occupant", mode: Mode) -> None:
        super().__init__(view.channel, occupant.outbox, occupant.cid, mode)
        self.view = view
        self.occupant = occupant
        self.state: Document = None
        self.v = 0
        self.at = 0
        self.deferred: list[Callable[[], None]] | None = None
        """What waits for the store's answer to this membership's join; None: there is none to wait for."""

    def go_on(self) -> None:
        """Do what has waited for the join."""
        deferred, self.deferred = self.deferred or [], None
        for request in deferred:
            request()


class Occupant:
    """Who is in rooms: a connection, its identity, its epoch, and a way to answer it."""

    __slots__ = ("cid", "epoch", "grants", "info", "memberships", "outbox", "returns", "user")

    def __init__(
        self,
        cid: str,
        user: str,
        info: Document,
        epoch: int,
        outbox: Outbox,
        *,
        grants: Grants | None = None,
        returns: bool = False,
    ) -> None:
        self.cid = cid
        self.user = user
        self.info = info
        self.grants = grants
        """What its credentials let it do; None: what the rooms' own rules allow."""
        self.returns = returns
        """Whether it was connected to another process before."""
        self.epoch = epoch
        self.outbox = outbox
        self.memberships: dict[str, Membership] = {}

    def until_answered(self, size: int, done: "Callable[..., None]") -> "Callable[..., None]":
        """Count a request that a store answers later, and return what the store is to call in place of `done`."""
        outbox, size = self.outbox, size + REQUEST_BYTES
        outbox.keep_request(size)

        def answered(*answer: object) -> None:
            outbox.drop_request(size)
            done(*answer)

        return answered

    def ok(self, request_id: int | None, *, v: int | None = None, at: int | None = None) -> None:
        """Say that a request was carried out, if it asked to be told."""
        if request_id is not None:
            unset = msgspec.UNSET
            self.outbox.send(Ok(request_id, unset if v is None else v, unset if at is None else at))

    def refuse(self, error: RequestError, request_id: int | None) -> None:
        """Say that a request was refused."""
        unset = msgspec.UNSET
        self.outbox.send(
            Error(
                code=str(error.code),
                message=error.message,
                id=unset if request_id is None else request_id,
                room=unset if error.room is None else error.room,
                v=unset if error.v is None else error.v,
                retry_after_ms=unset if error.retry_after_ms is None else error.retry_after_ms,
            )
        )
