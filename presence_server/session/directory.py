"""Every connection of this node, by cid, and how one is let in or continues an earlier one."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final, NamedTuple

import structlog

from presence_server.auth.identity import Authenticator, Identity
from presence_server.counters import Counts, Histogram
from presence_server.grants import Grants
from presence_server.hub.outbox import Outbox
from presence_server.ids import new_cid
from presence_server.presence.operations import Linger as LingerOperation
from presence_server.presence.port import PresenceStore
from presence_server.protocol.codes import KICKED, REPLACED, UNAUTHORIZED, CloseCode
from presence_server.protocol.messages import Document, Published
from presence_server.registry.commands import Command, Disconnect, Kick, Regrant, Remove, Revoke
from presence_server.registry.port import Present, Registry
from presence_server.rooms.context import NodeContext
from presence_server.rooms.participant import RefusalCounter
from presence_server.rooms.rooms import Rooms
from presence_server.session.claims import FRESH_EPOCH, EpochClaims
from presence_server.session.expiry import Expiries
from presence_server.session.lingers import Grace, LingeringConnection, Lingers
from presence_server.session.message_rate import MessageRateLimit
from presence_server.session.resume import ResumeClaim, ResumeTokens
from presence_server.session.session import Session

log = structlog.get_logger()

SAMPLED: Final = 8
"""One of so many messages is timed: to time each would cost a twentieth of handling it."""
REVOKED_MAX: Final = 10_000
"""Sessions, users and connections remembered that were ended, for handshakes that were under way."""
SKEW_MS: Final = 500
"""The most by which two nodes that follow the store's clock may differ."""


class Arriving(NamedTuple):
    """A connection that is to be resumed; `number` grows with each that comes."""

    claim: ResumeClaim
    identity: Identity
    outbox: Outbox
    opened: Callable[[Session], None]
    number: int


class Directory:
    """The sessions of a node, and what they share."""

    def __init__(
        self,
        context: NodeContext,
        *,
        rooms: Rooms,
        store: PresenceStore,
        authenticator: Authenticator,
        tokens: ResumeTokens,
        message_rate: MessageRateLimit,
        registry: Registry,
        is_isolated: Callable[[str], bool],
        lingers: Lingers,
    ) -> None:
        presence = context.presence
        clock = self.clock = context.clock
        self.node = context.node
        self.rooms = rooms
        self.authenticator = authenticator
        limits = context.limits
        self.welcome_limits = {
            "message_bytes": limits.message_bytes,
            "state_bytes": limits.state_bytes,
            "info_bytes": limits.info_bytes,
            "rooms": limits.rooms,
        }
        """The limits that clients are told."""
        self.message_rate = message_rate
        self.ping_ms = presence.ping_ms
        self._store = store
        self.tokens = tokens
        self._resume_ms = presence.resume_ms
        self._grace_ms = max(presence.grace_clean_ms, presence.grace_lost_ms)
        self.received: Counts[type] = Counts()
        """Messages that clients sent, by type."""
        self.refusals: Counts[str] = Counts()
        """Errors that clients were answered with, by code."""
        self.refusal_counter = RefusalCounter(self.refusals, clock.now_ms)
        self.handling = Histogram()
        """The durations of handling every `SAMPLED`th message, without waiting for a store, s."""
        self._until_sample = 0
        self._sessions: dict[str, Session] = {}
        self._users: dict[str, dict[str, Session]] = {}
        self._opaque: dict[str, dict[str, Session]] = {}
        self._revoked: dict[str, None] = {}
        self._ended_users: dict[str, int] = {}
        """Users whose connections were closed, and when: of tokens until then none resumes."""
        self._ended_cids: dict[str, int] = {}
        """Connections that were closed for good, and when."""
        self.lingers = lingers
        self._registry = registry
        self._expiries = Expiries(self._sessions)
        self.claims = EpochClaims(store, self.node, self._sessions, is_isolated)
        self._arrivals = count(1)

    def __len__(self) -> int:
        return len(self._sessions)

    def open_session(
        self, identity: Identity, resume: str | None, outbox: Outbox, opened: Callable[[Session], None]
    ) -> None:
        """Let a connection in; `opened` gets its session, welcomed, when the store has been asked if it must.

        A resume token that is bad, expired or another user's is no error: the connection is a new one. One that
        cannot be read may be of the process before this one, which had another key.
        """
        claim = self.claim_of(resume)
        if claim is None or claim.user != identity.user or self._is_ended(claim):
            self._open_anew(identity, outbox, opened, was_elsewhere=resume is not None and claim is None)
        else:
            arriving = Arriving(claim, identity, outbox, opened, next(self._arrivals))
            self._store.read_user_end(claim.user, partial(self._claim, arriving))

    def is_sampled(self) -> bool:
        """Tell whether the handling of this message is to be timed."""
        self._until_sample -= 1
        if self._until_sample > 0:
            return False
        self._until_sample = SAMPLED
        return True

    def banned_until(self, user: str) -> int:
        """Return when a user may come in, in ms since 1970; 0: now."""
        return self._registry.banned_until(user)

    def take_credentials(self, session: Session, identity: Identity) -> None:
        """Go by fresh credentials of a connection's user; it is taken out of rooms that they do not cover."""
        self._unwatch_credentials(session)
        session.opaque = identity.session
        session.expires_ms = identity.expires_ms
        self._watch_credentials(session, identity)
        if session.opaque in self._revoked:
            session.close(UNAUTHORIZED)
        else:
            self._take_grants(session, identity.grants)

    def apply_command(self, command: Command) -> None:
        """Apply a command to the connections of this node."""
        match command:
            case Disconnect(user=user, at=at):
                _remember(self._ended_users, user, at)
                self._kick(self._users.get(user), at)
                self._end_lingers(self.lingers.of_user(user), at)
            case Kick(cid=cid, at=at):
                _remember(self._ended_cids, cid, at)
                session = self._sessions.get(cid)
                self._kick(None if session is None else {cid: session}, at)
                self._end_lingers(self.lingers.of_connection(cid), at)
            case Remove(room=room, cid=cid, at=at):
                session = self._sessions.get(cid)
                if session is not None:
                    log.info("connection removed from a room by command", cid=cid, room=room)
                    self.rooms.endings.remove_by_command(session.participant, room, at)
            case Revoke(session=opaque):
                self.revoke_opaque(opaque)
            case Regrant(session=opaque, rooms=rooms, ttl_ms=ttl_ms):
                if opaque in self._opaque:
                    self.authenticator.hold(opaque, ttl_ms)
                for session in list(self._opaque.get(opaque, {}).values()):
                    self._take_grants(session, None if rooms is None else Grants(rooms))

    def revoke_opaque(self, opaque: str) -> None:
        """Close every connection of an opaque session, also one whose handshake is not over; end those that linger."""
        self._revoked[opaque] = None
        if len(self._revoked) > REVOKED_MAX:
            del self._revoked[next(iter(self._revoked))]
        self._close(self._opaque.get(opaque), UNAUTHORIZED, None)
        self._end_lingers(self.lingers.of_session(opaque), None)

    def find_connection(self, cid: str) -> Present | None:
        """Return whose a connection of this node is, and its rooms."""
        session = self._sessions.get(cid)
        return None if session is None else Present(session.user, sorted(session.participant.memberships))

    def deliver_to_user(self, user: str, data: Document, at: int) -> None:
        """Send something to every connection of a user."""
        for session in self._users.get(user, {}).values():
            session.participant.outbox.send_message(
                Published(room=None, cid=None, user=None, data=data, at=at)
            )

    def sweep_sessions(self) -> None:
        """Warn and close those whose credentials end; forget lingers that are over."""
        self._expiries.close_expired(self.clock.wall_ms())
        self.lingers.discard_over(self.clock.now_ms())

    def claim_of(self, resume: str | None) -> ResumeClaim | None:
        """Return what a resume token says, if there is one and it is good. It costs a hash and asks nobody."""
        return None if resume is None else self.tokens.read(resume, self.clock.wall_ms())

    def resume_token(self, session: Session) -> str:
        """Issue a resume token, and note when it is to be renewed."""
        now_ms = self.clock.wall_ms()
        session.renew_at_ms = now_ms + self._resume_ms // 2
        return self.tokens.issue(
            ResumeClaim(session.cid, session.user, session.participant.epoch, self.node, now_ms)
        )

    def register_session(self, session: Session) -> None:
        """Have the registry note a connection, with the epoch that it has now."""
        self._registry.opened(session.user, session.cid, session.opened.wall_ms, session.participant.epoch)

    def withhold(self, session: Session) -> None:
        """Have the registry not note a connection until its claim is confirmed: the other life of it may have won."""
        self._registry.withhold(session.cid)

    def remove_session(self, session: Session) -> None:
        """Forget a connection that has ended."""
        if self._sessions.get(session.cid) is session:
            del self._sessions[session.cid]
            self._expiries.cancel_expiry(session.cid)
            self._registry.closed(session.user, session.cid)
        self.claims.note_ended(session)
        _drop(self._users, session.user, session)
        self._unwatch_credentials(session)

    def note_lingering(self, session: Session, rooms: dict[str, LingerOperation]) -> None:
        """Remember a connection that has ended and whose members linger in `rooms`."""
        if rooms:
            now_ms = self.clock.now_ms()
            graces = {
                room: Grace(operation.epoch, now_ms + operation.grace_ms, operation.reason)
                for room, operation in rooms.items()
            }
            who = (session.cid, session.user, session.opaque)
            self.lingers.add_lingering(
                LingeringConnection(*who, session.opened, graces, now_ms + self._grace_ms)
            )

    def _claim(self, arriving: Arriving, ended_at: int) -> None:
        """Claim the connection of a token unless its user's tokens have ended since, or nobody is there any more."""
        claim, identity, outbox, opened, _ = arriving
        if outbox.wire is None:
            return
        if self._is_issued_before(claim, ended_at):
            self._open_anew(identity, outbox, opened)
        else:
            self.claims.claim_epoch(claim.cid, claim.epoch, claim.node, partial(self._claimed, arriving))

    def _claimed(self, arriving: Arriving, epoch: int) -> None:
        claim, identity, outbox, opened, number = arriving
        if outbox.wire is None:  # its client has given up, and may have come back meanwhile: that one stays
            return
        if epoch <= 0 or self._is_ended(claim):
            self._open_anew(identity, outbox, opened)
            return
        other = self._sessions.get(claim.cid)
        if other is not None and other.arrival > number:  # it came later and was answered before: it stays
            self.claims.raise_to(other, epoch)
            self._open_anew(identity, outbox, opened)
            return
        if other is not None:
            other.close(REPLACED)
        session = Session(
            self,
            claim.cid,
            identity,
            epoch,
            outbox,
            was_elsewhere=claim.node != self.node,
            arrival=number,
        )
        self.claims.note_resumed(session, claim.epoch)
        self._welcome(session, identity, opened, resumed=True)

    def _open_anew(
        self,
        identity: Identity,
        outbox: Outbox,
        opened: Callable[[Session], None],
        *,
        was_elsewhere: bool = False,
    ) -> None:
        session = Session(self, new_cid(), identity, FRESH_EPOCH, outbox, was_elsewhere=was_elsewhere)
        self._welcome(session, identity, opened, resumed=False)

    def _is_ended(self, claim: ResumeClaim) -> bool:
        """Tell whether this node knows that a token has ended; the store may know what it does not."""
        return claim.cid in self._ended_cids or self._is_issued_before(
            claim, self._ended_users.get(claim.user, -1)
        )

    def _is_issued_before(self, claim: ResumeClaim, at: int) -> bool:
        """Tell whether a token is, or may be, from before `at`: the store's clock may have told a time twice."""
        return self.clock.repeated_time.earliest_ms(claim.iat) <= at

    def _welcome(
        self, session: Session, identity: Identity, opened: Callable[[Session], None], *, resumed: bool
    ) -> None:
        self._sessions[session.cid] = session
        self._users.setdefault(session.user, {})[session.cid] = session
        self.register_session(session)
        self._watch_credentials(session, identity)
        session.welcome(resumed=resumed)
        opened(session)
        if session.opaque in self._revoked:
            session.close(UNAUTHORIZED)
        elif self.banned_until(session.user):
            session.close(KICKED)

    def _watch_credentials(self, session: Session, identity: Identity) -> None:
        """Mind the end of a connection's credentials."""
        self._expiries.schedule_expiry(session, self.clock.wall_ms())
        if session.opaque:
            self._opaque.setdefault(session.opaque, {})[session.cid] = session
            self.authenticator.hold(session.opaque, identity.session_ttl_ms)

    def _unwatch_credentials(self, session: Session) -> None:
        if session.opaque:
            _drop(self._opaque, session.opaque, session)
            if session.opaque not in self._opaque:
                self.authenticator.let_go(session.opaque)

    def _take_grants(self, session: Session, grants: Grants | None) -> None:
        session.participant.grants = grants
        self.rooms.endings.remove_uncovered(session.participant)

    def _kick(self, sessions: dict[str, Session] | None, at: int) -> None:
        """Close connections for good: those, too, that the giver of the command did not know of."""
        for session in self._close(sessions, KICKED, at):
            self._store.end_tokens(session.cid, lambda: None)

    def _end_lingers(self, lingers: list[LingeringConnection], at: int | None) -> None:
        """End the members of connections that had ended already when they were to be closed for good."""
        for linger in lingers:
            if at is None or linger.opened.was_by(at + SKEW_MS, self.clock):
                self.lingers.discard(linger.cid)
                self.rooms.endings.end_linger(
                    linger.cid, {room: grace.epoch for room, grace in linger.rooms.items()}
                )

    def _close(self, sessions: dict[str, Session] | None, code: CloseCode, at: int | None) -> list[Session]:
        """Close connections and return them; where `at` says when that was asked for, those that were there then."""
        closed = [
            session
            for session in (sessions or {}).values()
            if at is None or session.opened.was_by(at + SKEW_MS, self.clock)
        ]
        for session in closed:
            log.info("connection closed by command", cid=session.cid, code=code.code)
            session.close(code)
        return closed


def _remember(times: dict[str, int], key: str, at: int) -> None:
    """Keep when something was ended for the last time; the oldest of too many goes."""
    times[key] = max(at, times.pop(key, at))
    if len(times) > REVOKED_MAX:
        del times[next(iter(times))]


def _drop(index: dict[str, dict[str, Session]], key: str, session: Session) -> None:
    """Take a session out of an index, unless another life of it has its place."""
    entries = index.get(key)
    if entries is not None and entries.get(session.cid) is session:
        del entries[session.cid]
        if not entries:
            del index[key]
