"""Members of a room that are gone, and what may still come of them: late messages, and earlier lives."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from presence_server.presence.roster import Record
from presence_server.protocol.messages import MemberLeave

GONE_MAX: Final = 1_000
"""Members that are remembered, for each room."""


class Gone(NamedTuple):
    """The epoch of a member that is gone, and until when it is remembered.

    After a timeout (`timed_out`) its messages may still come; after a resume an earlier life of it, in a store that was
    restored from a snapshot.
    """

    epoch: int
    until_ms: int
    timed_out: bool


class GoneMembers:
    """Remembers the members of one room that are gone, for `fence_ms` by the clock `now_ms`."""

    __slots__ = ("_by_cid", "_fence_ms", "_now_ms", "_passed_over")

    def __init__(self, now_ms: Callable[[], int], fence_ms: int) -> None:
        self._now_ms = now_ms
        self._fence_ms = fence_ms
        self._by_cid: dict[str, Gone] = {}
        """At most `GONE_MAX`, oldest first."""
        self._passed_over: dict[str, int] = {}
        """Epochs of earlier lives that the store has brought back: their nodes take them out within a TTL."""

    def remember(self, leave: MemberLeave, epoch: int) -> None:
        """Remember a member that has just left."""
        now_ms = self._now_ms()
        self._by_cid.pop(leave.cid, None)
        self._by_cid[leave.cid] = Gone(epoch, now_ms + self._fence_ms, leave.reason == "timeout")
        while len(self._by_cid) > GONE_MAX or self._by_cid[next(iter(self._by_cid))].until_ms < now_ms:
            del self._by_cid[next(iter(self._by_cid))]

    def forget_all(self) -> None:
        """Forget everybody: joins may have been missed, and no message of who is back may be dropped."""
        self._by_cid.clear()

    def forget_returned(self, joins: Sequence[Record]) -> None:
        """Forget members that have joined again."""
        if self._by_cid or self._passed_over:
            for record in joins:
                self._by_cid.pop(record.member.cid, None)
                self._passed_over.pop(record.member.cid, None)

    def is_outdated(self, cid: str, epoch: int) -> bool:
        """Tell whether a message is of a life that was taken for dead.

        What a node wrote before it hung may reach the store after its members were evicted, and before they come back.
        """
        gone = self._by_cid.get(cid)
        return gone is not None and gone.timed_out and epoch <= gone.epoch and self._now_ms() < gone.until_ms

    def pass_over(self, joins: Sequence[Record], *, history_broken: bool) -> Collection[str]:
        """Return the cids of joins that are of an earlier life than the one that has left.

        Only a store whose history is broken brings such lives back; later snapshots still have them.
        """
        before, self._passed_over = self._passed_over, {}
        if history_broken or before:
            now_ms = self._now_ms()
            for record in joins:
                cid, gone = record.member.cid, self._by_cid.get(record.member.cid)
                is_earlier = gone is not None and record.epoch < gone.epoch and now_ms < gone.until_ms
                if (history_broken and is_earlier) or before.get(cid) == record.epoch:
                    self._passed_over[cid] = record.epoch
        return self._passed_over.keys()

    def stop_passing_over(self) -> bool:
        """Pass over nobody from now on; return whether that makes a difference."""
        before, self._passed_over = self._passed_over, {}
        return bool(before)
