"""Epochs of resumed connections: claimed from the store, and claimed again after it was out of reach.

A claim made while this node is isolated is *unconfirmed*: another node may have made the same one. It is repeated on
return, and stays unconfirmed until the store has answered.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from presence_server.presence.port import CLAIM_CHANGED, UNKNOWN_EPOCH, Claim, PresenceStore, everything
from presence_server.protocol.codes import KICKED, REPLACED
from presence_server.protocol.messages import Resume

if TYPE_CHECKING:
    from presence_server.session.session import Session

COMPARED_MAX: Final = 500
"""Connections compared with the store's claims in one sweep, when all are: it is called four times a second."""
FRESH_EPOCH: Final = 1
"""The epoch of a connection that was never resumed; there is no claim of it."""


class Probe(Enum):
    """Whether a connection's client has shown that it has it: it may have given it up before it was welcomed."""

    UNSENT = "unsent"
    SENT = "sent"
    ANSWERED = "answered"


class ClaimUnderWay:
    """Claims of one connection id that the store has not answered, and the highest epoch that another node claimed."""

    __slots__ = ("count", "heard")

    def __init__(self) -> None:
        self.count = 0
        self.heard = 0


class EpochClaims:
    """The claims of one node's connections; `sessions` are the open ones, by cid.

    `is_isolated(cid)` tells whether the store that has the claims of a connection is out of reach.
    """

    def __init__(
        self,
        store: PresenceStore,
        node: str,
        sessions: "Mapping[str, Session]",
        is_isolated: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._node = node
        self._sessions = sessions
        self._is_isolated = is_isolated
        self._under_way: dict[str, ClaimUnderWay] = {}
        self._unconfirmed: dict[str, Session] = {}
        self._token_epochs: dict[str, int] = {}
        """The epochs of the tokens that unconfirmed connections were resumed with, by cid: memory may have claimed one
        that is more than one above."""
        self._uncompared: dict[str, None] = {}
        """Connections that are to be compared with the store's claims, a part of them in each sweep."""

    def __len__(self) -> int:
        return len(self._under_way) + len(self._unconfirmed) + len(self._uncompared)

    def claim_epoch(
        self,
        cid: str,
        epoch: int,
        issuer: str,
        claimed: Callable[[int], None],
        *,
        known: int | None = None,
    ) -> None:
        """Claim the next epoch of `cid` for a connection that `claimed` makes; 0: its tokens have ended.

        `issuer` is the node that issued its token; `known`: see `PresenceStore.claim`.
        """
        under_way = self._under_way.setdefault(cid, ClaimUnderWay())
        under_way.count += 1

        def answered(epoch: int) -> None:
            under_way.count -= 1
            if under_way.count == 0:
                del self._under_way[cid]
            claimed(epoch)
            if epoch != CLAIM_CHANGED:  # else the next read has what was heard
                self._close_replaced(cid, under_way.heard)

        self._store.claim(cid, epoch, self._node, issuer, answered, known=known)

    def note_resumed(self, session: "Session", token_epoch: int) -> None:
        """Note a connection that was resumed with a token; its claim is to be repeated if this node is isolated."""
        if self._is_isolated(session.cid):
            self._unconfirmed[session.cid] = session
            self._token_epochs[session.cid] = token_epoch

    def note_ended(self, session: "Session") -> None:
        """Forget a connection that has ended."""
        if self._unconfirmed.get(session.cid) is session:
            del self._unconfirmed[session.cid]
            self._token_epochs.pop(session.cid, None)

    def note_claimed_elsewhere(self, cid: str, epoch: int) -> None:
        """Take note that another node has claimed `cid`: an earlier life of it here is closed.

        Where a claim of this node is under way, its answer says which of the two is the earlier one.
        """
        under_way = self._under_way.get(cid)
        if under_way is None:
            self._close_replaced(cid, epoch)
        else:
            under_way.heard = max(under_way.heard, epoch)

    def unconfirmed(self, is_concerned: Callable[[str], bool] = everything) -> "list[Session]":
        """Return the connections whose claims are to be repeated, of cids for which `is_concerned`."""
        return [session for cid, session in self._unconfirmed.items() if is_concerned(cid)]

    def repeat_claim(self, session: "Session", done: Callable[[], None]) -> None:
        """Repeat an unconfirmed claim; `done` is called with the epoch in force, or when the connection is closed.

        Each resume goes above the epoch of its token. So whoever resumed with this connection's token, or a later one,
        is later, and this one has ended, which its node has not noticed. Who brought an earlier token may have come
        before or after: where this connection has entered a room it has a client, and goes on. Otherwise its client
        may have given it up before this node, which was frozen, read what it had sent: it goes on once its client
        answers a probe, and is unconfirmed until then.

        All nodes return at once after an outage of the store. Where another node claims between the read and the claim,
        this begins again: what was read does not hold any more.
        """
        self._store.read_claim(session.cid, partial(self._repeat, session, done))

    def _repeat(self, session: "Session", done: Callable[[], None], stored: Claim) -> None:
        """Have the store know the epoch of a connection, or a higher one where another connection has the same."""
        if self._is_isolated(session.cid):  # it is repeated after the next return
            done()
            return
        token_epoch = self._token_epochs.get(session.cid, session.participant.epoch - 1)
        is_anothers = stored.epoch > max(token_epoch, FRESH_EPOCH) and stored.node != self._node
        if is_anothers and stored.token > token_epoch:
            self._give_way(session, stored.epoch)
        if session.ended:
            done()
        elif is_anothers and not (session.participant.memberships or session.probe is Probe.ANSWERED):
            session.send_probe()
            done()
        else:
            token = session.participant.epoch - 1
            confirm = partial(self._confirm, session, done)
            self.claim_epoch(session.cid, token, self._node, confirm, known=stored.epoch)

    def answer_probe(self, session: "Session") -> None:
        """Repeat the claim of a connection that has shown that it has a client."""
        if self._unconfirmed.get(session.cid) is session:
            self.repeat_claim(session, lambda: None)

    def compare_memberless(self, *, lost: bool, is_concerned: Callable[[str], bool] = everything) -> None:
        """Compare connections without members with the store's claims: no room would tell of a later life of theirs.

        Those whose cid `is_concerned` are compared. `lost` says that the store may have lost claims: then all that were
        resumed are compared. It is told again what it has lost, so that the other lives of a connection hear of it.
        """
        for cid, session in list(self._sessions.items()):
            resumed = lost and session.participant.epoch > FRESH_EPOCH
            silent = not any(membership.is_member for membership in session.participant.memberships.values())
            if cid not in self._unconfirmed and (resumed or silent) and is_concerned(cid):
                self._store.read_claim(cid, partial(self._compared, session))

    def compare_all(self, is_concerned: Callable[[str], bool] = everything) -> None:
        """Compare every connection with the store's claims, in the sweeps to come.

        A later life need not have joined the rooms that the earlier one is in: then no room tells of it.
        """
        self._uncompared.update((cid, None) for cid in self._sessions if is_concerned(cid))

    def compare_next(self) -> None:
        """Compare some of those that are to be compared."""
        for cid in list(islice(self._uncompared, COMPARED_MAX)):
            del self._uncompared[cid]
            session = self._sessions.get(cid)
            if session is not None and cid not in self._unconfirmed and not self._is_isolated(cid):
                self._store.read_claim(cid, partial(self._compared, session))

    def _compared(self, session: "Session", stored: Claim) -> None:
        if self._sessions.get(session.cid) is not session or self._is_isolated(session.cid):
            return
        if session.cid in self._under_way:
            self.note_claimed_elsewhere(session.cid, stored.epoch)
        elif FRESH_EPOCH < session.participant.epoch > stored.epoch:
            self._unconfirmed[session.cid] = session
            self._token_epochs[session.cid] = session.participant.epoch - 1
            self.repeat_claim(session, lambda: None)
        elif session.participant.epoch < stored.epoch or self._is_anothers(stored, session):
            # Where both have the same epoch the stored one is later: the claim of this one was lost.
            self._give_way(session, stored.epoch)
        elif session.participant.epoch > FRESH_EPOCH:
            # An earlier life with the same epoch may have noted itself over this one, and its end taken that back.
            session.directory.register_session(session)

    def _is_anothers(self, stored: Claim, session: "Session") -> bool:
        """Tell whether another node has claimed the epoch that a connection of this node has, or a later one."""
        return FRESH_EPOCH < stored.epoch >= session.participant.epoch and stored.node != self._node

    def _confirm(self, session: "Session", done: Callable[[], None], epoch: int) -> None:
        if epoch == CLAIM_CHANGED and not session.ended:
            self.repeat_claim(session, done)
            return
        # Isolated again, memory has answered. The epoch that it claimed is in no token: with it a resume elsewhere,
        # by the token that the client has, would be taken for one made at the same time.
        if not self._is_isolated(session.cid) and epoch != CLAIM_CHANGED:
            self.note_ended(session)
            if epoch == 0:
                session.close(KICKED)
            elif self._sessions.get(session.cid) is session:
                self.raise_to(session, session.participant.epoch if epoch == UNKNOWN_EPOCH else epoch)
        done()

    @staticmethod
    def raise_to(session: "Session", epoch: int) -> None:
        """Let a connection have the epoch that the store knows of it; its client gets another token."""
        raised, session.participant.epoch = epoch != session.participant.epoch, epoch
        session.directory.register_session(session)
        if raised:
            session.participant.outbox.send_message(Resume(session.directory.resume_token(session)))

    @staticmethod
    def _give_way(session: "Session", epoch: int) -> None:
        """Close an earlier life of a connection, with a lower epoch than the later one: its leaves are then ignored."""
        session.participant.epoch = min(session.participant.epoch, epoch - 1)
        session.close(REPLACED)

    def _close_replaced(self, cid: str, epoch: int) -> None:
        session = self._sessions.get(cid)
        if session is not None and session.participant.epoch < epoch:
            session.close(REPLACED)
