"""Every connection of this node, by cid, and how one is let in or continues an earlier one."""

from collections.abc import Callable
from functools import partial

from presence_server.auth import Authenticator, Identity
from presence_server.clock import Clock
from presence_server.config.settings import LimitsSettings
from presence_server.hub.outbox import Outbox
from presence_server.ids import new_cid
from presence_server.presence.store import PresenceStore
from presence_server.protocol.codes import REPLACED
from presence_server.rooms.rooms import Rooms
from presence_server.session.pace import Pace
from presence_server.session.resume import ResumeClaim, ResumeTokens
from presence_server.session.session import Session

FRESH_EPOCH = 1


class Directory:
    """The sessions of a node, and what they share."""

    def __init__(
        self,
        *,
        node: str,
        rooms: Rooms,
        store: PresenceStore,
        authenticator: Authenticator,
        tokens: ResumeTokens,
        clock: Clock,
        limits: LimitsSettings,
        pace: Pace,
        ping_ms: int,
        resume_ms: int,
    ) -> None:
        self.node = node
        self.rooms = rooms
        self.authenticator = authenticator
        self.clock = clock
        self.limits = limits
        self.pace = pace
        self.ping_ms = ping_ms
        self._store = store
        self.tokens = tokens
        self._resume_ms = resume_ms
        self._sessions: dict[str, Session] = {}
        self.alone: Callable[[], bool] = lambda: False
        """Whether the shared store is away."""

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self, identity: Identity, resume: str | None, outbox: Outbox, opened: Callable[[Session], None]
    ) -> None:
        """Let a connection in; `opened` gets its session, welcomed, when the store has been asked if it must.

        A resume token that is bad, expired or another user's is no error: the connection is a new one.
        """
        claim = None if resume is None else self.tokens.read(resume, self.clock.wall_ms())
        if claim is None or claim.user != identity.user:
            session = Session(self, new_cid(), identity, FRESH_EPOCH, outbox)
            self._admit(session, opened, resumed=False)
        else:
            opening = partial(self._claimed, claim, identity, outbox, opened)
            self._store.claim(claim.cid, claim.epoch, claim.node, opening)

    def resumes(self, resume: str | None) -> bool:
        """Tell whether a handshake brings a resume token that is good."""
        return resume is not None and self.tokens.read(resume, self.clock.wall_ms()) is not None

    def resume_token(self, session: Session) -> str:
        """Issue a resume token, and note when it is to be renewed."""
        now_ms = self.clock.wall_ms()
        session.renew_at_ms = now_ms + self._resume_ms // 2
        return self.tokens.issue(ResumeClaim(session.cid, session.user, session.epoch, self.node, now_ms))

    def claimed(self, cid: str, epoch: int) -> None:
        """Close a connection that another node has resumed."""
        session = self._sessions.get(cid)
        if session is not None and session.epoch < epoch:
            session.close(REPLACED)

    def remove(self, session: Session) -> None:
        """Forget a connection that has ended."""
        if self._sessions.get(session.cid) is session:
            del self._sessions[session.cid]

    def _claimed(
        self,
        claim: ResumeClaim,
        identity: Identity,
        outbox: Outbox,
        opened: Callable[[Session], None],
        epoch: int,
    ) -> None:
        earlier = self._sessions.get(claim.cid)
        if earlier is not None:
            earlier.close(REPLACED)
        session = Session(self, claim.cid, identity, epoch, outbox)
        session.claimed_alone = self.alone()
        self._admit(session, opened, resumed=True)

    def _admit(self, session: Session, opened: Callable[[Session], None], *, resumed: bool) -> None:
        self._sessions[session.cid] = session
        session.welcome(resumed=resumed)
        opened(session)
