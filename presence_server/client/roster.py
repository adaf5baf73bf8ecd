"""The roster of a room, as a client knows it: messages in, events out. Does no I/O.

The server guarantees that a `sync` is followed only by newer changes, so applying what follows in order
of arrival always gives its roster. Three things need care here:

- A cid that joins while it is there left and came back within one batch.
- A `sync` with a cursor is only the beginning: those that were known before and are not in it may come with a
  page, so they stay, unconfirmed, until the last page is in.
- Before the first roster is complete nobody has seen it, so nothing in it is news.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from presence_server.client.events import Joined, Left, RosterEvent, Synced, Updated, Users
from presence_server.client.message_codec import RosterSync
from presence_server.protocol.messages import Count, Diff, Member, Mode


class ClientRoster:
    """The members of one room.

    `members` and `users` are live, read-only views. `complete` is false from a `sync` with a cursor to the
    last of its pages. `count` and `user_count` are the server's, also where `mode` says that no roster is
    sent.
    """

    mode: Mode | None
    members: Mapping[str, Member]

    def __init__(self, room: str) -> None:
        self.room = room
        self.mode = None
        self.seq = 0
        self.count = 0
        self.user_count = 0
        self.complete = False
        self._by_cid: dict[str, Member] = {}
        self._by_user: dict[str, dict[str, Member]] = {}
        self._unconfirmed: set[str] = set()
        self._shown = False
        self.members = MappingProxyType(self._by_cid)
        self.users = Users(self._by_user)

    def sync(self, message: RosterSync) -> list[RosterEvent]:
        """Take the room as the server says it is; where it has a cursor, `page` must follow."""
        self.mode, self.seq = message.mode, message.seq
        self.count, self.user_count = message.count, message.users
        if message.mode != "full":
            self._by_cid.clear()
            self._by_user.clear()
            self._unconfirmed.clear()
            self._shown, self.complete = False, True
            return [self._synced()]
        self._unconfirmed = set(self._by_cid)
        self.complete = False
        return self.page(message.members, last=message.cursor is None)

    def page(self, members: Iterable[Member], *, last: bool) -> list[RosterEvent]:
        """Merge more of the roster; `last` if nothing of this `sync` is left to ask for."""
        if self.mode != "full":
            return []
        events: list[RosterEvent] = []
        for member in members:
            events += self._compare(member)
        if not self._shown:
            events.clear()
        if last and not self.complete:
            gone = [self._remove(cid) for cid in sorted(self._unconfirmed)]
            if self._shown:
                events += [Left(self.room, member, None) for member in gone]
            self._shown = self.complete = True
            events.append(self._synced())
        return events

    def diff(self, message: Diff) -> list[RosterEvent]:
        """Apply what changed; before the first `sync` it is about an earlier stay and means nothing."""
        if self.mode is None:
            return []
        self.seq, self.count, self.user_count = message.seq, message.count, message.users
        if self.mode != "full":
            return []
        events: list[RosterEvent] = [
            Left(self.room, self._remove(leave.cid), leave.reason)
            for leave in message.leaves
            if leave.cid in self._by_cid
        ]
        for member in message.joins:
            events += self._put(member)
        for update in message.updates:
            known = self._by_cid.get(update.cid)
            if known is not None and update.cid not in self._unconfirmed:
                events += self._put(msgspec.structs.replace(known, state=update.state, v=update.v))
        return events if self._shown else []

    def recount(self, message: Count) -> None:
        """Take the numbers."""
        self.count, self.user_count = message.count, message.users

    def _put(self, member: Member) -> list[RosterEvent]:
        self._unconfirmed.discard(member.cid)
        known = self._by_cid.get(member.cid)
        if known == member:
            return []
        if known is not None and (known.user, known.at) != (member.user, member.at):
            self._remove(member.cid)
            self._store(member)
            return [Left(self.room, known, None), Joined(self.room, member)]
        self._store(member)
        return [Joined(self.room, member) if known is None else Updated(self.room, member, known)]

    def _compare(self, member: Member) -> list[RosterEvent]:
        """Take a member of a roster that was read; one that was known before has stayed, even with another `at`."""
        known = self._by_cid.get(member.cid)
        if known is None or known.user != member.user or known.at == member.at:
            return self._put(member)
        self._remove(member.cid)
        self._store(member)
        same = (known.state, known.info) == (member.state, member.info)
        return [] if same else [Updated(self.room, member, known)]

    def _store(self, member: Member) -> None:
        self._by_cid[member.cid] = member
        self._by_user.setdefault(member.user, {})[member.cid] = member

    def _remove(self, cid: str) -> Member:
        self._unconfirmed.discard(cid)
        member = self._by_cid.pop(cid)
        connections = self._by_user[member.user]
        del connections[cid]
        if not connections:
            del self._by_user[member.user]
        return member

    def _synced(self) -> Synced:
        return Synced(self.room, self.mode or "none", self.count, self.user_count)
