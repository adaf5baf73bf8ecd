"""What a room does, written plainly: a dict of members, a dict of fences, all of them looked at each time."""

from dataclasses import dataclass, field, replace

from presence_server.presence.operations import Beat, Enter, Leave, Linger, Operation
from presence_server.presence.roster import Change


@dataclass(frozen=True)
class NaiveMember:
    user: str
    info: bytes
    state: bytes
    v: int
    at: int
    epoch: int
    ends_ms: int
    reason: str = "timeout"
    lingering: bool = False


@dataclass
class NaiveRoom:
    fence_ms: int
    members: dict[str, NaiveMember] = field(default_factory=dict)
    fences: dict[str, tuple[int, int]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    """Who was removed by a backend, and no life of it has left since; only with a fence."""
    leaves: list[tuple[str, str, str]] = field(default_factory=list)
    """(cid, user, reason) of everybody who ever left, in order of leaving."""

    def pass_to(self, now_ms: int, exempt: frozenset[str] = frozenset()) -> None:
        for cid, member in sorted(self.members.items()):
            if member.ends_ms <= now_ms and cid not in exempt:
                self._remove(cid, member.reason)

    def forget_fences(self, now_ms: int) -> None:
        self.fences = {cid: fence for cid, fence in self.fences.items() if fence[1] > now_ms}
        self.removed &= self.fences.keys()

    def carry_out(self, operation: Operation, now_ms: int, wall_ms: int) -> str:
        """Return "done", or why not."""
        named = operation.epochs if isinstance(operation, Beat) else [operation.cid]
        self.pass_to(now_ms, frozenset(named))
        self.forget_fences(now_ms)
        if isinstance(operation, Beat):
            self._beat(operation, now_ms)
            return "done"
        member = self.members.get(operation.cid)
        known = max(member.epoch if member else 0, self.fences.get(operation.cid, (0, 0))[0])
        epoch = operation.epoch
        if epoch is None:
            assert isinstance(operation, Leave)
            return self._remove_by_backend(operation, member, known, now_ms)
        if epoch < known:
            return "fenced"
        if isinstance(operation, Enter):
            removed = operation.cid in self.removed
            entered = "removed" if removed else self._enter(operation, member, now_ms, wall_ms)
            if entered == "done":
                self.fences.pop(operation.cid, None)
            return entered
        if isinstance(operation, Leave):
            self._fence(operation, epoch, now_ms)
        if isinstance(operation, Change) and member is not None and epoch > member.epoch:
            return "missing"
        return self._act(operation, member, now_ms) if member is not None else "missing"

    def _fence(self, leave: Leave, epoch: int, now_ms: int) -> None:
        self.removed.discard(leave.cid)
        self.fences.pop(leave.cid, None)
        lowest = epoch + (1 if leave.fence else 0)
        if lowest > 1:
            self.fences[leave.cid] = (lowest, now_ms + self.fence_ms)

    def _act(self, operation: Leave | Linger | Change, member: NaiveMember, now_ms: int) -> str:
        if isinstance(operation, Leave):
            self._remove(operation.cid, operation.reason)
        elif isinstance(operation, Linger):
            self.members[operation.cid] = replace(
                member, ends_ms=now_ms + operation.grace_ms, reason=operation.reason, lingering=True
            )
        else:
            self._change(operation, member)
        return "done"

    def _remove_by_backend(self, leave: Leave, member: NaiveMember | None, known: int, now_ms: int) -> str:
        if member is None:
            return "missing"
        self.fences[leave.cid] = (known, now_ms + self.fence_ms)
        self.removed.add(leave.cid)
        self._remove(leave.cid, leave.reason)
        return "done"

    def _enter(self, enter: Enter, member: NaiveMember | None, now_ms: int, wall_ms: int) -> str:
        ends_ms = now_ms + enter.ttl_ms
        if member is None:
            if enter.members_max and len(self.members) >= enter.members_max:
                return "full"
            state = b"{}" if enter.state is None else bytes(enter.state)
            self.members[enter.cid] = NaiveMember(
                enter.user, bytes(enter.info), state, 1, wall_ms, enter.epoch, ends_ms
            )
            return "done"
        if member.lingering and enter.epoch == member.epoch:
            return "fenced"
        state = member.state if enter.state is None else bytes(enter.state)
        v = member.v + (state != member.state)
        self.members[enter.cid] = NaiveMember(
            enter.user, bytes(enter.info), state, v, member.at, enter.epoch, ends_ms
        )
        return "done"

    def _change(self, change: Change, member: NaiveMember) -> None:
        if change.v > member.v:
            self.members[change.cid] = replace(member, state=bytes(change.state), v=change.v)

    def _beat(self, beat: Beat, now_ms: int) -> None:
        for cid, epoch in beat.epochs.items():
            member = self.members.get(cid)
            if member is not None and member.epoch <= epoch and not member.lingering:
                self.members[cid] = replace(member, ends_ms=now_ms + beat.ttl_ms)

    def _remove(self, cid: str, reason: str) -> None:
        self.leaves.append((cid, self.members.pop(cid).user, reason))
