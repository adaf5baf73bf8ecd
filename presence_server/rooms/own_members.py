"""The members of a room that are of this node: those who are connected, and those whose connections are gone."""

from collections.abc import Callable, Mapping

from presence_server.presence.roster import Delta, Record
from presence_server.protocol.messages import MemberLeave, Reason
from presence_server.rooms.participant import Membership


class OwnMembers:
    """The members of this `node` among `records`, which is a room's roster by cid.

    `memberships` are the connections here that are in the room, or about to be, by cid. `is_lingering(cid)` tells
    whether a member whose connection has ended here is within its grace.
    """

    __slots__ = ("_leaving", "_memberships", "_node", "_records", "is_lingering")

    def __init__(
        self,
        records: Mapping[str, Record],
        memberships: Mapping[str, Membership],
        node: str,
        is_lingering: Callable[[str], bool],
    ) -> None:
        self._records = records
        self._memberships = memberships
        self._node = node
        self.is_lingering = is_lingering
        self._leaving: dict[str, MemberLeave] = {}
        """Leaves that the store was told of and that have not come over the channel yet."""

    # --- who is connected ---

    @property
    def has_connected(self) -> bool:
        """Whether there are members whose connections are on this node."""
        return any(membership.is_member for membership in self._memberships.values())

    def connected(self) -> list[Membership]:
        """Return the members whose connections are on this node, those whose join is under way among them."""
        return [membership for membership in self._memberships.values() if membership.is_member]

    def is_served(self, cid: str) -> bool:
        """Tell whether a member's connection is on this node: it is entered again, or its connection hears why not."""
        return cid in self._memberships and self._memberships[cid].is_member

    # --- whose connections are gone ---

    def is_of_absent(self, record: Record) -> bool:
        """Tell whether a record is of a member of this node whose connection is gone."""
        return record.node == self._node and record.member.cid not in self._memberships

    def is_ghost(self, record: Record) -> bool:
        """Tell whether a member of this node that the store has is not here any more, and its grace is over."""
        cid = record.member.cid
        return self.is_of_absent(record) and cid not in self._records and not self.is_lingering(cid)

    def absent(self, cid: str) -> Record | None:
        """Return the record of a member of this node whose connection is gone; None where there is no such member."""
        record = self._records.get(cid)
        return record if record is not None and self.is_of_absent(record) else None

    def all_absent(self) -> list[Record]:
        """Return the members of this node whose connections are gone: those that linger."""
        return [
            record
            for cid, record in self._records.items()
            if self.is_of_absent(record) and cid not in self._leaving
        ]

    # --- who is leaving ---

    def await_leave(self, cid: str, reason: Reason) -> None:
        """Note that the store was asked to remove a member whose connection is gone: it is not entered again."""
        record = self.absent(cid)
        if record is not None:
            self._leaving[cid] = MemberLeave(cid, record.member.user, reason)

    def is_leaving(self, cid: str) -> bool:
        """Tell whether the store was asked to remove a member."""
        return cid in self._leaving

    def leaves(self) -> list[MemberLeave]:
        """Return the leaves that the store was told of and that have not come."""
        return list(self._leaving.values())

    def note_delta(self, delta: Delta) -> None:
        """Note that leaves have come, or that members have joined again."""
        if self._leaving:
            for leave in delta.leaves:
                self._leaving.pop(leave.cid, None)
            for record in delta.joins:
                self._leaving.pop(record.member.cid, None)

    def forget_leave(self, cid: str) -> None:
        """Note that a leave has come, or that the store has refused to remove the member."""
        self._leaving.pop(cid, None)

    def forget_leaves(self) -> None:
        """Forget all leaves: the roster is not held any more."""
        self._leaving.clear()
