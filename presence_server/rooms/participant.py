"""A connection as rooms see it, and its membership of one of them."""

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from presence_server.errors import RequestError
from presence_server.hub.channel import Watcher
from presence_server.hub.outbox import REQUEST_BYTES, Outbox
from presence_server.protocol.codes import ABUSE, CloseCode, ErrorCode
from presence_server.protocol.messages import Document, Error, Mode
from presence_server.rooms.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_server.counters import Counts
    from presence_server.grants import Grants
    from presence_server.rooms.view import View

STRIKES_MAX: Final = 20
STRIKES_WITHIN_MS: Final = 5_000
"""A client that is refused so often within this time is closed."""
STRIKING: Final = frozenset((ErrorCode.BAD_MESSAGE, ErrorCode.THROTTLED))
"""Refusals that a client does not repeat if it reads them."""


UntilAnswered: TypeAlias = "Callable[[Participant, int, Callable[..., None]], Callable[..., None]]"
"""Counts a request of some size until a store has answered it; see `Participant.until_answered`."""


class Membership:
    """One connection in one room: always a watcher, a member too where `is_member`.

    `state` and `v` are the member's as its owner last set them; this connection is their only writer.
    """

    __slots__ = ("asked_at", "at", "participant", "state", "v", "view", "watcher")

    def __init__(self, view: "View", participant: "Participant", mode: Mode) -> None:
        self.view = view
        self.participant = participant
        self.watcher = Watcher(view.channel, participant.outbox, participant.cid, mode)
        self.state: Document = None
        self.v = 0
        self.at = 0
        """When the store entered the member, ms since 1970; 0: it has not answered, or there is no member."""
        self.asked_at = 0
        """When the client asked for that."""

    @property
    def cid(self) -> str:
        """The connection id."""
        return self.participant.cid

    @property
    def is_member(self) -> bool:
        """Whether the connection appears in the roster, or is about to."""
        return self.watcher.is_member

    def become_member(self, asked_at: int) -> None:
        """Note that the connection is about to appear in the roster."""
        self.watcher.is_member = True
        self.asked_at = asked_at

    def was_asked_by(self, at: int) -> bool:
        """Tell whether the client had asked for the membership at a time, in ms since 1970."""
        return min(self.at, self.asked_at) <= at

    def stay_watcher(self) -> None:
        """Note that the connection does not appear in the roster after all."""
        self.watcher.is_member = False

    @property
    def is_entering(self) -> bool:
        """Whether later requests of the room wait until the store has answered a join, or the room has been read."""
        return self.participant.inbox.is_held(self.view.room)

    def hold_requests(self) -> None:
        """Have later requests of the room wait, so that they are carried out in their order."""
        self.participant.inbox.hold(self.view.room)

    def release_requests(self) -> None:
        """Carry out the requests that have waited."""
        self.participant.inbox.release(self.view.room)


class RefusalCounter:
    """Counts the errors that clients of this node are answered with, `by_code`; all participants share it."""

    def __init__(self, by_code: "Counts[str]", now_ms: "Callable[[], int]") -> None:
        self.by_code = by_code
        self.now_ms = now_ms


class Participant:
    """One connection: its identity, its epoch, the rooms that it is in, and how it is answered."""

    __slots__ = (
        "_refusals",
        "_strikes",
        "cid",
        "epoch",
        "grants",
        "inbox",
        "info",
        "memberships",
        "outbox",
        "user",
        "was_elsewhere",
    )

    def __init__(
        self,
        cid: str,
        user: str,
        info: Document,
        epoch: int,
        outbox: Outbox,
        *,
        grants: "Grants | None",
        was_elsewhere: bool,
        refusals: RefusalCounter,
    ) -> None:
        self.cid = cid
        self.user = user
        self.info = info
        self.grants = grants
        """What its credentials let it do; None: what the rooms' own rules allow."""
        self.was_elsewhere = was_elsewhere
        """Whether it was connected to another process before."""
        self.epoch = epoch
        self.outbox = outbox
        self.inbox = Inbox(outbox)
        self.memberships: dict[str, Membership] = {}
        self._refusals = refusals
        self._strikes: deque[int] | None = None

    def until_answered(self, size: int, done: "Callable[..., None]") -> "Callable[..., None]":
        """Count a request that a store answers later, and return what the store is to call in place of `done`."""
        outbox, size = self.outbox, size + REQUEST_BYTES
        outbox.keep_request(size)

        def answered(*answer: object) -> None:
            outbox.drop_request(size)
            done(*answer)

        return answered

    def refuse(self, error: RequestError, request_id: int | None = None) -> None:
        """Send an error; the connection of a client that goes on to cause them is closed."""
        code = str(error.code)
        self.outbox.send_message(
            Error(code, error.message, request_id, error.room, error.retry_after_ms, error.v),
        )
        self._refusals.by_code[code] += 1
        if error.code in STRIKING:
            self._strike()

    def close(self, code: CloseCode) -> None:
        """Close the connection from this side."""
        if self.outbox.wire is not None:
            self.outbox.wire.close(code)

    def _strike(self) -> None:
        now_ms = self._refusals.now_ms()
        if self._strikes is None:
            self._strikes = deque(maxlen=STRIKES_MAX)
        self._strikes.append(now_ms)
        if len(self._strikes) == STRIKES_MAX and now_ms - self._strikes[0] <= STRIKES_WITHIN_MS:
            self.close(ABUSE)


def answered_at_once(who: Participant, size: int, done: "Callable[..., None]") -> "Callable[..., None]":
    """Return `done`: a store in this process answers before anything else happens, and nothing is counted."""
    del who, size
    return done
