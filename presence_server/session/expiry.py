"""The expiry of credentials: a warning before, then the end of the connection, without a timer for each."""

from typing import TYPE_CHECKING, Final

from presence_server.errors import RequestError
from presence_server.protocol.codes import TOKEN_EXPIRED, ErrorCode
from presence_server.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from presence_server.session.session import Session

WARNING_MS: Final = 30_000
"""The time before the end at which a client is warned; half of what is left, where that is less."""


class Expiries:
    """Every connection's end of credentials, the next first; times in ms since 1970."""

    def __init__(self, sessions: "Mapping[str, Session]") -> None:
        self._sessions = sessions
        self._timers: Timers[str] = Timers(order=lambda cid: cid)
        """The time at which each connection is warned or, after the warning, closed; by cid."""

    def schedule_expiry(self, session: "Session", now_ms: int) -> None:
        """Mind a connection whose credentials end, or end at another time than before."""
        if session.expires_ms is not None:
            left_ms = session.expires_ms - now_ms
            warning_ms = WARNING_MS if left_ms > WARNING_MS else left_ms // 2
            self._timers.schedule(session.cid, session.expires_ms - warning_ms)

    def cancel_expiry(self, cid: str) -> None:
        """Forget a connection, which has ended."""
        self._timers.cancel(cid)

    def close_expired(self, now_ms: int) -> None:
        """Warn and end whom it is time for."""
        for cid in self._timers.pop_due(now_ms):
            session = self._sessions.get(cid)
            if session is None or session.expires_ms is None:
                continue
            if now_ms >= session.expires_ms:
                session.close(TOKEN_EXPIRED)
                continue
            left_s = (session.expires_ms - now_ms) // 1_000
            warning = RequestError(ErrorCode.TOKEN_EXPIRED, f"the token ends in {left_s} s: send a fresh one")
            session.participant.refuse(warning)
            self._timers.schedule(cid, session.expires_ms)
