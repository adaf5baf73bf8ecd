"""The vocabulary of a room's presence: what can be asked of a room, and the outcomes.

An operation says what a member, its node or a backend wants; `state` has the rules that carry it out, and the scripts
in `lua/` have the same ones.
"""

from typing import Final, NamedTuple

import msgspec

from presence_server.presence.roster import LEASE_NODE, Change, Delta, Record
from presence_server.protocol.messages import Document, Reason


class Enter(msgspec.Struct, frozen=True):
    """Become a member, or, with a higher epoch, go on being one.

    `state` None keeps what is there; `members_max` 0 is no limit. A member that its store has lost brings the
    `v` and `at` that it had; 0: it is new. In the room's generation `known_in` they do not count: there its node knew
    it, and if it is not there any more, it has left; 0: they always count.
    """

    cid: str
    user: str
    info: Document
    state: Document | None
    epoch: int
    node: str
    ttl_ms: int
    members_max: int = 0
    v: int = 0
    at: int = 0
    known_in: int = 0

    @property
    def is_lease(self) -> bool:
        """Whether a backend enters the member or renews its lease, and no node does."""
        return self.node == LEASE_NODE


class Leave(msgspec.Struct, frozen=True):
    """Stop being a member, at once. After a kick (`fence`) the same epoch may not come back; a leased one may.

    `epoch` None is a backend's: it does not know the member's epoch, and means whichever life there is. Its kick is a
    removal: no life of the connection is entered until one of them has left itself, which says that its client knows.
    """

    cid: str
    epoch: int | None
    reason: Reason
    fence: bool = False

    @property
    def is_by_backend(self) -> bool:
        """Whether a backend asks for it, and not the member's own node."""
        return self.epoch is None


class Linger(msgspec.Struct, frozen=True):
    """Stop being a member `grace_ms` from now, unless a higher epoch enters before."""

    cid: str
    epoch: int
    grace_ms: int
    reason: Reason


class Beat(msgspec.Struct, frozen=True):
    """Say that members, cid by epoch, are alive for `ttl_ms` more. A beat does not undo a linger."""

    epochs: dict[str, int]
    ttl_ms: int


Operation = Enter | Change | Leave | Linger | Beat


class Done(msgspec.Struct, frozen=True):
    """The operation was carried out; the room is at `seq`. Generation 0: there is no such room.

    `record` is the member as it is now (after `Enter` and `Change`), or was (after a backend's `Leave`).
    `unknown` are the cids of a `Beat` that are not members with that epoch: their node should enter them again, and
    will hear if it may not.
    `created` says that `Enter` made a member, and did not find it.
    """

    generation: int
    seq: int
    record: Record | None = None
    unknown: tuple[str, ...] = ()
    created: bool = False


class Refused(msgspec.Struct, frozen=True):
    """The operation changed nothing.

    `fenced`: a later life of the connection has the membership, or it was kicked. `removed`: a backend has removed
    the connection from the room, and its client does not know. `full`: the room has as many members as it may have.
    `missing`: there is no such member. `taken`: the member is a connection, which only its node may enter. `broken`:
    the store refused the operation; the log says why.
    """

    why: str


FENCED: Final = Refused("fenced")
REMOVED: Final = Refused("removed")
FULL: Final = Refused("full")
MISSING: Final = Refused("missing")
TAKEN: Final = Refused("taken")
BROKEN: Final = Refused("broken")
Outcome = Done | Refused


class Sent(NamedTuple):
    """The context of a call to the store. Times are by the store's clock, as its node believed it to be.

    `at_ms`: when it was sent. A call that arrives more than `late_ms` after that lay somewhere while the store was
    frozen, or the store's clock was stepped forward: nobody could renew a member meanwhile, so nobody is judged for
    `hold_ms`. `hold_rest_ms`: what is left of a hold that its node keeps, because it was without contact itself.
    """

    at_ms: int
    late_ms: int
    hold_ms: int
    hold_rest_ms: int = 0


class Ran(NamedTuple):
    """The result of a call: an outcome for each operation, and the deltas to announce, in order.

    A delta that changes nothing has the last one's seq: it says that a member may end sooner than was announced.
    """

    outcomes: list[Outcome]
    deltas: list[Delta]
