"""The expiry of credentials: a warning before, then the end of the connection, without a timer for each."""

import heapq
from typing import TYPE_CHECKING, Final

from presence_server.errors import RequestError
from presence_server.protocol.codes import TOKEN_EXPIRED, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from presence_server.session.session import Session

WARNING_MS: Final = 30_000
"""How long before the end a client is told to bring fresh credentials; half of what is left, where that is less."""
SLACK: Final = 1_000
"""Entries of connections that are gone, beyond as many as there are connections, before they are cleared out."""


class Expiries:
    """Every connection's end of credentials, the next first; times in ms since 1970."""

    def __init__(self, sessions: "Mapping[str, Session]") -> None:
        self._sessions = sessions
        self._due: list[tuple[int, str, int]] = []

    def expect(self, session: "Session", now_ms: int) -> None:
        """Mind a connection whose credentials end, or end at another time than before."""
        if session.expires_ms is not None:
            left_ms = session.expires_ms - now_ms
            warning_ms = WARNING_MS if left_ms > WARNING_MS else left_ms // 2
            heapq.heappush(self._due, (session.expires_ms - warning_ms, session.cid, session.expires_ms))
            if len(self._due) > 2 * len(self._sessions) + SLACK:
                self._due = [entry for entry in self._due if self._session(entry) is not None]
                heapq.heapify(self._due)

    def sweep(self, now_ms: int) -> None:
        """Warn and end whom it is time for."""
        while self._due and self._due[0][0] <= now_ms:
            entry = due_ms, cid, expires_ms = heapq.heappop(self._due)
            session = self._session(entry)
            if session is None:
                continue
            if now_ms >= expires_ms:
                session.close(TOKEN_EXPIRED)
            elif due_ms < expires_ms:
                left_s = (expires_ms - now_ms) // 1_000
                warning = RequestError(
                    ErrorCode.TOKEN_EXPIRED, f"the token ends in {left_s} s: send a fresh one"
                )
                session.participant.refuse(warning)
                heapq.heappush(self._due, (expires_ms, cid, expires_ms))

    def _session(self, entry: tuple[int, str, int]) -> "Session | None":
        """Return whom an entry is about, unless it is gone or has other credentials by now."""
        _, cid, expires_ms = entry
        session = self._sessions.get(cid)
        return session if session is not None and session.expires_ms == expires_ms else None
