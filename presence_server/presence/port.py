"""The port: what a presence store does, for one process or for many nodes."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from presence_server.presence.operations import Operation, Outcome
from presence_server.presence.roster import Delta, Record, Snapshot

UNKNOWN_EPOCH: Final = -1
"""The epoch of a claim that the store could neither make nor deny: its key has another type."""
CLAIM_CHANGED: Final = -2
"""The epoch that a claim gets which is not made because another one was made meanwhile."""


def everything(tag: str) -> bool:
    """Return True: of every room, cid or user."""
    del tag
    return True


class Claim(NamedTuple):
    """The highest epoch of a connection that was claimed, 0 for none: by which node, with a token of which epoch."""

    epoch: int = 0
    node: str = ""
    token: int = 0


class MemberPage(NamedTuple):
    """Some members of a room, and the cursor of the next page; None: there is none."""

    records: list[Record]
    following: str | None


class PresenceStore(Protocol):
    """Holds every room's members and announces what changes.

    - Each call answers by calling its last argument exactly once: at once, or later on the same event loop,
      in the order of the calls of one room. A connection therefore costs no task.
    - What an operation changes is announced as a `Delta` on the room's channel of the bus, with the next seq,
      before its answer arrives. That holds also for evictions, exactly once each.
    - Times are the store's own. A member that is not beaten within its ttl, or whose grace is over, is
      announced as gone by `sweep_expired` within a second, without anyone asking.
    - Not guaranteed: that an answer arrives before others' deltas that are newer than it.
    """

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Carry out one operation on one room."""

    def snapshot(self, room: str, done: Callable[[Snapshot], None], *, members_max: int = 0) -> None:
        """Read a whole room; expired members are not in it. Of one with more than `members_max`, its numbers; 0: all.

        A large room is read in parts, and answered when the deltas that came meanwhile have been noted.
        """

    def page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        """Read some members, at most `limit` and `bytes_max` of them or a few more; None: the store is out of reach.

        `cursor` is `FIRST_PAGE`, or a page has given it (`is_cursor`). Who is there throughout is in one of the pages,
        and may be in two; an expired member is in none. What a call takes does not grow with the room.
        """

    def claim(
        self,
        cid: str,
        epoch: int,
        node: str,
        issuer: str,
        done: Callable[[int], None],
        *,
        known: int | None = None,
    ) -> None:
        """Answer the epoch for a connection resumed on `node`: above `epoch` and above every earlier claim of `cid`.

        `issuer`, the node that issued the token, is told. 0: the tokens of `cid` were ended. Or
        `UNKNOWN_EPOCH`. Where `known` is given and the last claim has another epoch by now nothing is claimed:
        `CLAIM_CHANGED`.
        """

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        """Answer the last claim of `cid`; no claim, also where it cannot be read."""

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        """Let no resume token of `cid` that there is be claimed any more."""

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        """Keep that the resume tokens of `user` that were issued until `at`, ms since 1970, have ended."""

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        """Answer the `at` of the last `end_user_tokens` of `user` while a token may be as old as that; 0: none.

        Where that cannot be read it is now: no token resumes that may have ended.
        """

    def note_delta(self, room: str, delta: Delta) -> None:
        """Take note of a delta of a watched room, which the bus has brought: what it says of who expires next."""

    def forget(self, room: str) -> None:
        """Stop minding a room that nobody on this node watches any more."""

    def sweep_expired(self) -> None:
        """Announce what has expired; called several times a second."""
