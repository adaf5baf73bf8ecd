"""`auth.mode = "session"`: a token that says nothing, and a store that knows whose it is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

from presence_server.auth.identity import (
    Credentials,
    Identified,
    Identity,
    IdentityError,
    checked_info,
    checked_user,
)
from presence_server.clock import Clock
from presence_server.errors import StoreAwayError
from presence_server.grants import Grants
from presence_server.opaque_sessions.port import TOKEN_CHARS_MAX, SessionStore, StoredSession, session_id
from presence_server.timers import Timers

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

STEP_S: Final = 0.25
"""The interval at which sessions that are due are used."""
TOUCHES_MAX: Final = 500
MISSED_RETRY_MS: Final = 1_000


class SessionAuthenticator:
    """Asks the session store; and uses the sessions of open connections, so that these do not end."""

    def __init__(self, store: SessionStore, clock: Clock, info_bytes_max: int) -> None:
        self._store = store
        self._clock = clock
        self._info_bytes_max = info_bytes_max
        self._tasks: TaskGroup | None = None
        self._held: dict[str, int] = {}
        """The lifetime after a use of each session that has connections here, ms."""
        self._uses: Timers[str] = Timers()
        """The time of each session's next use."""

    async def run(self, ended: Callable[[str], None]) -> None:
        """Answer, and keep sessions of open connections in use, for ever.

        `ended` is called with a session of an open connection that is no more.
        """
        async with anyio.create_task_group() as self._tasks:
            while True:
                await anyio.sleep(STEP_S)
                await self._touch_due(ended)

    def identify(self, credentials: Credentials, done: Identified) -> None:
        """Ask the store about a token, which is a use of its session."""
        token = credentials.token
        if credentials.repeated:
            done(IdentityError(401, "more than one token"))
        elif not token:
            done(IdentityError(401, "a token is missing"))
        elif len(token) > TOKEN_CHARS_MAX:
            done(IdentityError(401, f"the token is longer than {TOKEN_CHARS_MAX} characters"))
        elif self._tasks is None:
            done(IdentityError(503, "this node is not ready"))
        else:
            self._tasks.start_soon(self._identify, session_id(token), done)

    def hold(self, session: str, ttl_ms: int) -> None:
        """Keep a session in use from now on, so that it does not end within `ttl_ms`: a connection of it is here."""
        if self._held.get(session) != ttl_ms:
            self._expect(session, ttl_ms, ttl_ms // 3)

    def let_go(self, session: str) -> None:
        """Let a session end in its time: its last connection here has."""
        self._held.pop(session, None)
        self._uses.cancel(session)

    async def _identify(self, session: str, done: Identified) -> None:
        try:
            stored = await self._store.read(session)
        except StoreAwayError:
            done(IdentityError(503, "sessions cannot be checked now; try again"))
            return
        if stored is None:
            done(IdentityError(401, "the session does not exist or has ended"))
            return
        try:
            identity: Identity | IdentityError = self._identity(session, stored)
        except IdentityError as exc:
            identity = exc
        done(identity)

    def _identity(self, session: str, stored: StoredSession) -> Identity:
        data = stored.data
        info = checked_info(data.info, self._info_bytes_max, 401)
        grants = None if data.rooms is None else Grants(data.rooms)
        return Identity(
            checked_user(data.user, 401), info, grants, session=session, session_ttl_ms=data.ttl_ms
        )

    def _expect(self, session: str, ttl_ms: int, in_ms: int) -> None:
        self._held[session] = ttl_ms
        self._uses.schedule(session, self._clock.now_ms() + in_ms)

    async def _touch_due(self, ended: Callable[[str], None]) -> None:
        due = self._uses.pop_due(self._clock.now_ms(), TOUCHES_MAX)
        try:
            there: list[bool] | None = await self._store.touch(due)
        except StoreAwayError:
            there = None
        for i, session in enumerate(due):
            ttl_ms = self._held.get(session)
            if ttl_ms is None:  # let go meanwhile
                continue
            if there is None:
                self._expect(session, ttl_ms, MISSED_RETRY_MS)
            elif there[i]:
                self._expect(session, ttl_ms, ttl_ms // 3)
            else:
                ended(session)
