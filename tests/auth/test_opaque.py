"""Opaque sessions at the handshake, and kept in use while they have connections."""

from collections.abc import AsyncIterator

import anyio
import pytest

from presence_server.auth.identity import Credentials, Identity, IdentityError
from presence_server.auth.opaque import SessionAuthenticator
from presence_server.errors import StoreAwayError
from presence_server.grants import Grant
from presence_server.opaque_sessions.memory import MemorySessions
from presence_server.opaque_sessions.port import SessionData, new_token, session_id
from tests.support.handclock import HandClock
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

TTL_MS = 60_000


class Sessions(MemorySessions):
    """Sessions in memory that can be out of reach, and count how often they are used."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.away = False
        self.refused = 0
        self.touched = 0

    async def touch(self, session_ids: list[str]) -> list[bool]:
        if self.away:
            self.refused += 1
            raise StoreAwayError
        self.touched += len(session_ids)
        return await super().touch(session_ids)


class Checking:
    """An authenticator that runs, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = Sessions(self.clock)
        self.authenticator = SessionAuthenticator(self.store, self.clock, 100)
        self.ended: list[str] = []

    async def begin(self, **fields: object) -> str:
        token = new_token()
        data = SessionData(**({"user": "ann", "ttl_ms": TTL_MS} | fields))  # type: ignore[arg-type]  # a test's own
        await self.store.create(session_id(token), data)
        return token

    async def answer(self, token: str | None, *, repeated: bool = False) -> Identity | IdentityError:
        answers: list[Identity | IdentityError] = []
        self.authenticator.identify(Credentials(token, repeated=repeated), answers.append)
        await until(lambda: answers)
        return answers[0]


@pytest.fixture
async def checking() -> AsyncIterator[Checking]:
    checking = Checking()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checking.authenticator.run, checking.ended.append)
        await until(lambda: checking.authenticator._tasks)
        yield checking
        tasks.cancel_scope.cancel()


async def test_a_session_says_who_and_what(checking: Checking) -> None:
    token = await checking.begin(info={"n": 1}, rooms=[Grant("a", ["join"])])
    identity = await checking.answer(token)
    assert isinstance(identity, Identity)
    assert (identity.user, bytes(identity.info)) == ("ann", b'{"n":1}')
    assert (identity.session, identity.session_ttl_ms) == (session_id(token), TTL_MS)
    assert identity.expires_ms is None
    assert identity.grants is not None
    assert (identity.grants.allow("join", "a"), identity.grants.allow("join", "b")) == (True, False)


@pytest.mark.parametrize("token", [None, "", "nonsense", "x" * 10_000, "\u20ac", "\ud800"])
async def test_what_is_no_session_is_refused(checking: Checking, token: str | None) -> None:
    answer = await checking.answer(token)
    assert isinstance(answer, IdentityError)
    assert answer.status == 401


async def test_of_several_tokens_none_counts(checking: Checking) -> None:
    answer = await checking.answer(await checking.begin(), repeated=True)
    assert isinstance(answer, IdentityError)


async def test_a_held_session_is_used_and_one_that_was_let_go_is_not(checking: Checking) -> None:
    held, free = await checking.begin(), await checking.begin()
    for token in (held, free):
        checking.authenticator.hold(session_id(token), TTL_MS)
    checking.authenticator.let_go(session_id(free))
    for step in range(1, 10):
        checking.clock.move(TTL_MS // 2)
        await until(lambda: checking.store.touched >= step)  # noqa: B023 - awaited here
    assert isinstance(await checking.answer(held), Identity)
    assert isinstance(await checking.answer(free), IdentityError)
    assert checking.ended == []


async def test_a_held_session_that_ends_sooner_from_now_on_is_used_sooner(checking: Checking) -> None:
    token = await checking.begin(ttl_ms=100 * TTL_MS)
    checking.authenticator.hold(session_id(token), 100 * TTL_MS)
    await checking.store.change(session_id(token), 1, SessionData("ann", TTL_MS))
    checking.authenticator.hold(session_id(token), TTL_MS)
    checking.clock.move(TTL_MS // 3)
    await until(lambda: checking.store.touched)


async def test_a_held_session_that_is_gone_is_told_of(checking: Checking) -> None:
    token = await checking.begin()
    checking.authenticator.hold(session_id(token), TTL_MS)
    await checking.store.revoke(session_id(token))
    checking.clock.move(TTL_MS // 3)
    await until(lambda: checking.ended == [session_id(token)])


async def test_while_the_store_is_away_nobody_is_taken_for_gone(checking: Checking) -> None:
    token = await checking.begin()
    checking.authenticator.hold(session_id(token), TTL_MS)
    checking.store.away = True
    checking.clock.move(TTL_MS // 3)
    await until(lambda: checking.store.refused)
    checking.store.away = False

    async def touched() -> int:
        checking.clock.move(1_000)
        return checking.store.touched

    await eventually(touched, lambda number: number > 0)
    assert checking.ended == []


async def test_sessions_that_come_and_go_do_not_pile_up() -> None:
    authenticator = SessionAuthenticator(Sessions(HandClock()), HandClock(), 100)
    for _ in range(5_000):
        authenticator.hold("s", TTL_MS)
        authenticator.let_go("s")
    assert len(authenticator._uses._heap) <= 100
