"""Sessions of a process on its own."""

from presence_server.clock import Clock
from presence_server.opaque_sessions.port import SessionData, StoredSession, VersionConflict
from presence_server.timers import Timers


class MemorySessions:
    """Sessions in this process's memory; see `SessionStore` for what it promises."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, tuple[StoredSession, int]] = {}
        self._ends: Timers[str] = Timers()

    def __len__(self) -> int:
        return len(self._sessions)

    async def create(self, session_id: str, data: SessionData) -> None:
        """Begin a session."""
        now_ms = self._clock.now_ms()
        self._forget_ended(now_ms)
        self._put(session_id, StoredSession(data, 1), now_ms)

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
        return version + 1

    async def revoke(self, session_id: str) -> bool:
        """End a session."""
        _, ends_ms = self._sessions.pop(session_id, (None, 0))
        self._ends.cancel(session_id)
        return ends_ms > self._clock.now_ms()

    async def touch(self, session_ids: list[str]) -> list[bool]:
        """Use several sessions."""
        return [await self.read(session_id) is not None for session_id in session_ids]

    def _put(self, session_id: str, stored: StoredSession, now_ms: int) -> None:
        ends_ms = now_ms + stored.data.ttl_ms
        self._sessions[session_id] = (stored, ends_ms)
        self._ends.schedule(session_id, ends_ms)

    def _forget_ended(self, now_ms: int) -> None:
        for session_id in self._ends.pop_due(now_ms):
            del self._sessions[session_id]
