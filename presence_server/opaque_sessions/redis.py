"""Sessions that nodes share."""

from typing import Final

import msgspec

from presence_server.opaque_sessions.port import SessionData, StoredSession, VersionConflict
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call, Script, script_call

PACKAGE: Final = "presence_server.opaque_sessions"
CREATE: Final = Script(PACKAGE, "create")
READ: Final = Script(PACKAGE, "read")
CHANGE: Final = Script(PACKAGE, "change")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SessionData).decode


class RedisSessions:
    """Sessions in Redis or Valkey; see `SessionStore` for what it promises."""

    def __init__(self, queries: Queries, keys: Keys) -> None:
        self._queries = queries
        self._keys = keys

    async def create(self, session_id: str, data: SessionData) -> None:
        """Begin a session."""
        arguments = (_encode(data), data.ttl_ms)
        await self._queries.ask(script_call(CREATE, [self._keys.session(session_id)], arguments))

    async def read(self, session_id: str) -> StoredSession | None:
        """Return a session."""
        (answer,) = await self._queries.ask(self._read(session_id))
        if answer is None:
            return None
        version, data = answer
        return StoredSession(_decode(data), int(version))

    async def change(self, session_id: str, version: int, data: SessionData) -> int | VersionConflict | None:
        """Replace what a session says if it is at `version`."""
        arguments = (version, _encode(data), data.ttl_ms)
        call = script_call(CHANGE, [self._keys.session(session_id)], arguments)
        (answer,) = await self._queries.ask(call)
        if answer is None:
            return None
        changed, present = answer
        return int(present) if changed else VersionConflict(int(present))

    async def revoke(self, session_id: str) -> bool:
        """End a session."""
        (removed,) = await self._queries.ask(Call(("DEL", self._keys.session(session_id))))
        return bool(removed)

    async def touch(self, session_ids: list[str]) -> list[bool]:
        """Use several sessions."""
        answers = await self._queries.ask(*map(self._read, session_ids))
        return [answer is not None for answer in answers]

    def _read(self, session_id: str) -> Call:
        return script_call(READ, [self._keys.session(session_id)], ())
