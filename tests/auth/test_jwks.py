"""Keys that an issuer publishes: from a real HTTP server, which goes away."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from presence_server.auth.identity import Credentials, Identity, IdentityError
from presence_server.auth.jwks import FLOOR_MS, Jwks
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.auth.verification_keys import read_jwks
from presence_server.config.settings import AuthSettings
from tests.support.handclock import HandClock
from tests.support.signing import public_jwk, public_pem, token
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


class Issuer:
    """Publishes keys at `url`."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.body if issuer.body is not None else json.dumps({"keys": issuer.keys}).encode()
                self.send_response(200 if body else 500)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def die(self) -> None:
        """Stop, for good."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    if issuer.thread.is_alive():
        issuer.die()


class Checking:
    """An authenticator that goes by an issuer's keys."""

    def __init__(self, issuer: Issuer) -> None:
        self.clock = HandClock()
        self.jwks = Jwks(issuer.url, self.clock)
        auth = AuthSettings(mode="jwt", algorithms=["RS256", "ES256"], jwks_url=issuer.url)
        self._authenticator = TokenAuthenticator(auth, self.clock, 1_000, self.jwks)

    async def answer(self, text: str) -> Identity | IdentityError:
        answers: list[Identity | IdentityError] = []
        self._authenticator.identify(Credentials(text), answers.append)
        await until(lambda: answers)
        return answers[0]

    async def accepts(self, text: str) -> bool:
        return isinstance(await self.answer(text), Identity)


async def test_published_keys_check_tokens_by_kid(issuer: Issuer) -> None:
    issuer.keys = [public_jwk("RS256", kid="r"), public_jwk("ES256", kid="e")]
    checking = Checking(issuer)
    await checking.jwks.refresh()
    assert await checking.accepts(token("RS256", headers={"kid": "r"}))
    assert await checking.accepts(token("ES256", headers={"kid": "e"}))
    assert await checking.accepts(token("ES256"))  # names no key: each that fits is tried
    assert not await checking.accepts(token("ES256", headers={"kid": "r"}))
    assert issuer.asked == 1


async def test_an_unknown_key_is_fetched_but_not_too_often(issuer: Issuer) -> None:
    issuer.keys = [public_jwk("RS256", kid="old")]
    checking = Checking(issuer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checking.jwks.run)
        assert await checking.accepts(token("RS256", headers={"kid": "old"}))
        issuer.keys = [public_jwk("ES256", kid="new")]
        for n in range(50):
            assert not await checking.accepts(token("ES256", headers={"kid": f"guess-{n}"}))
        assert issuer.asked == 1
        checking.clock.move(FLOOR_MS)
        assert await checking.accepts(token("ES256", headers={"kid": "new"}))
        assert issuer.asked == 2
        # What was withdrawn is not accepted any more.
        assert not await checking.accepts(token("RS256", headers={"kid": "old"}))
        tasks.cancel_scope.cancel()


async def test_who_waits_for_one_fetch_is_answered_by_it(issuer: Issuer) -> None:
    issuer.keys = [public_jwk("RS256", kid="r")]
    checking = Checking(issuer)
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await checking.accepts(token("RS256", headers={"kid": "r"})))

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as asking:
            for _ in range(20):
                asking.start_soon(ask)
            tasks.start_soon(checking.jwks.run)
        tasks.cancel_scope.cancel()
    assert answers == [True] * 20
    assert issuer.asked <= 2


async def test_a_dead_issuer_does_not_stop_the_holders_of_known_keys(issuer: Issuer) -> None:
    issuer.keys = [public_jwk("RS256", kid="r")]
    checking = Checking(issuer)
    await checking.jwks.refresh()
    good = token("RS256", headers={"kid": "r"})
    for body in (b"", b"not JSON", b"[]", b'{"keys": 1}', b'{"keys": []}'[:-1]):
        issuer.body = body
        await checking.jwks.refresh()
        assert await checking.accepts(good)
    issuer.die()
    await checking.jwks.refresh()
    assert await checking.accepts(good)


async def test_while_no_key_was_ever_read_nobody_is_called_invalid(issuer: Issuer) -> None:
    issuer.body = b""
    checking = Checking(issuer)
    good = token("RS256", headers={"kid": "r"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checking.jwks.run)
        answer = await checking.answer(good)
        assert isinstance(answer, IdentityError)
        assert answer.status == 503
        issuer.keys, issuer.body = [public_jwk("RS256", kid="r")], None
        checking.clock.move(FLOOR_MS)
        assert await checking.accepts(good)
        tasks.cancel_scope.cancel()


async def test_a_configured_key_is_good_while_the_issuer_s_cannot_be_read(issuer: Issuer) -> None:
    issuer.body = b""
    clock = HandClock()
    jwks = Jwks(issuer.url, clock)
    auth = AuthSettings(mode="jwt", algorithms=["RS256", "ES256"], public_key=public_pem("RS256"))
    authenticator = TokenAuthenticator(auth, clock, 1_000, jwks)
    await jwks.refresh()
    answers: list[Identity | IdentityError] = []
    for algorithm in ("RS256", "ES256"):
        authenticator.identify(Credentials(token(algorithm)), answers.append)
    good, unknown = answers
    assert isinstance(good, Identity)
    assert isinstance(unknown, IdentityError)
    assert (unknown.status, "try again" in unknown.detail) == (503, True)
    issuer.keys, issuer.body = [], None
    await jwks.refresh()
    authenticator.identify(Credentials(token("ES256")), answers.append)
    assert isinstance(answers[-1], IdentityError)
    assert (answers[-1].status, "not signed" in answers[-1].detail) == (401, True)


def test_only_keys_that_can_check_tokens_are_taken() -> None:
    keys = [
        public_jwk("RS256", kid="good"),
        public_jwk("RS256", kid="for encryption", use="enc"),
        {"kty": "oct", "k": "AAAA", "kid": "symmetric"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "weak"},
        {"kty": "RSA", "kid": "broken"},
        {"kty": "new kind"},
        "no key",
    ]
    assert [key.kid for key in read_jwks({"keys": keys})] == ["good"]


def test_a_key_made_for_an_algorithm_checks_no_other(issuer: Issuer) -> None:
    jwks = Jwks(issuer.url, HandClock(), lambda _: {"keys": [public_jwk("RS256", kid="r", alg="RS512")]})
    anyio.run(jwks.refresh)
    found: list[list[Any]] = []
    for algorithm in ("RS256", "RS512"):
        jwks.find("r", algorithm, found.append)
    assert [len(keys) for keys in found] == [0, 1]
