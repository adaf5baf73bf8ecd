"""Members of a room that the store lacks and that nobody saw leave: their node may still bring them back."""

from collections.abc import Callable, Iterable, Mapping

from presence_server.presence.roster import Record
from presence_server.protocol.messages import MemberLeave


class ProvisionalMembers:
    """The provisional members among `records`, which is a room's roster by cid.

    Each stays until something is heard of it, its node says that it has entered all its members again, or for a TTL.
    One whose connection is on this node (`is_served(cid)`) stays in any case.
    """

    __slots__ = ("_by_cid", "_is_served", "_records", "_reentered")

    def __init__(self, records: Mapping[str, Record], is_served: Callable[[str], bool]) -> None:
        self._records = records
        self._is_served = is_served
        self._by_cid: dict[str, Record] = {}
        self._reentered: dict[str, int] = {}
        """Nodes that have entered their members again while the room was being read, and into which generation."""

    def __len__(self) -> int:
        return len(self._by_cid)

    def __contains__(self, cid: str) -> bool:
        """Tell whether nothing has been heard of a member since the store was found not to have it."""
        return cid in self._by_cid and self._by_cid[cid] is self._records.get(cid)

    def clear(self) -> None:
        """Make nobody provisional: the roster is not held any more."""
        self._by_cid.clear()
        self._reentered.clear()

    def add(self, record: Record) -> None:
        """Make a member provisional."""
        self._by_cid[record.member.cid] = record

    def confirm(self, cids: Iterable[str]) -> None:
        """Note that the store has these members, and ends them like any other."""
        if self._by_cid:
            for cid in cids:
                self._by_cid.pop(cid, None)

    def resolve(self, node: str | None = None) -> list[MemberLeave]:
        """Return the leaves of the members that do not stay, of one node or of all, and forget those."""
        leaves = []
        for cid, record in list(self._by_cid.items()):
            if node in {None, record.node}:
                is_provisional = cid in self
                if is_provisional and self._is_served(cid):
                    continue
                del self._by_cid[cid]
                if is_provisional:
                    leaves.append(MemberLeave(cid, record.member.user, "timeout"))
        return leaves

    def keep_reentered(self, node: str, generation: int) -> None:
        """Keep that a node has entered its members again, for as long as it is not known whom the store lacks."""
        self._reentered[node] = generation

    def clear_reentered(self) -> None:
        """Forget what nodes have said: it was of contact that is over."""
        self._reentered.clear()

    def take_reentered(self, generation: int) -> list[str]:
        """Return the nodes that have entered their members into this generation of the room, and forget all others."""
        reentered, self._reentered = self._reentered, {}
        return [node for node, into in reentered.items() if into in {0, generation}]
