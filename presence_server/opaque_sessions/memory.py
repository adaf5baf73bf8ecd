"""Sessions of a process on its own."""

import heapq
from typing import Final

from presence_server.clock import Clock
from presence_server.opaque_sessions.port import SessionData, StoredSession, VersionConflict

SLACK: Final = 1_000
"""Entries of the queue that may be out of date, beyond as many as there are sessions, before it is made anew."""


class MemorySessions:
    """Sessions in this process's memory; see `SessionStore` for what it promises."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, tuple[StoredSession, int]] = {}
        # Every session is in this heap at or before the time it ends.
        self._due: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    async def create(self, session_id: str, data: SessionData) -> None:
        """Begin a session."""
        now_ms = self._clock.now_ms()
        self._forget_ended(now_ms)
        self._put(session_id, StoredSession(data, 1), now_ms)
        self._queue(session_id)

    async def read(self, session_id: str) -> StoredSession | None:
        """Return a session."""
        now_ms = self._clock.now_ms()
        stored, ends_ms = self._sessions.get(session_id, (None, 0))
        if stored is None or ends_ms <= now_ms:
            return None
        self._put(session_id, stored, now_ms)
        return stored

    async def change(self, session_id: str, version: int, data: SessionData) -> int | VersionConflict | None:
        """Replace what a session says if it is at `version`."""
        stored = await self.read(session_id)
        if stored is None:
            return None
        if stored.version != version:
            return VersionConflict(stored.version)
        now_ms = self._clock.now_ms()
        self._put(session_id, StoredSession(data, version + 1), now_ms)
        self._queue(session_id)
        return version + 1

    async def revoke(self, session_id: str) -> bool:
        """End a session."""
        _, ends_ms = self._sessions.pop(session_id, (None, 0))
        return ends_ms > self._clock.now_ms()

    async def touch(self, session_ids: list[str]) -> list[bool]:
        """Use several sessions."""
        return [await self.read(session_id) is not None for session_id in session_ids]

    def _put(self, session_id: str, stored: StoredSession, now_ms: int) -> None:
        self._sessions[session_id] = (stored, now_ms + stored.data.ttl_ms)

    def _queue(self, session_id: str) -> None:
        """Have a session looked at when it ends, as far as is known now."""
        heapq.heappush(self._due, (self._sessions[session_id][1], session_id))
        if len(self._due) > 2 * len(self._sessions) + SLACK:
            self._due = [(ends_ms, kept) for kept, (_, ends_ms) in self._sessions.items()]
            heapq.heapify(self._due)

    def _forget_ended(self, now_ms: int) -> None:
        while self._due and self._due[0][0] <= now_ms:
            _, session_id = heapq.heappop(self._due)
            _, ends_ms = self._sessions.get(session_id, (None, 0))
            if ends_ms > now_ms:
                heapq.heappush(self._due, (ends_ms, session_id))
            else:
                self._sessions.pop(session_id, None)
