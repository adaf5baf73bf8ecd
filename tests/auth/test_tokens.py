"""Tokens: what they prove, and what proves nothing."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from presence_server.auth.identity import Credentials, Identity, IdentityError
from presence_server.auth.tokens import AHEAD_MS, TOKEN_CHARS_MAX, TokenAuthenticator, issue
from presence_server.config.settings import AuthSettings
from tests.support.handclock import HandClock
from tests.support.signing import FAR_S, SECRET, part, public_pem, token

NOW_S = 1_700_000_000


class Issued:
    """An authenticator with settings, and what it says of tokens."""

    def __init__(self, **settings: Any) -> None:
        self.clock = HandClock(wall_ms=NOW_S * 1_000)
        auth = AuthSettings(mode="jwt", **({"secret": SECRET} | settings))
        self.authenticator = TokenAuthenticator(auth, self.clock, 100, None)

    def answer(self, text: str | None, **credentials: Any) -> Identity | IdentityError:
        answers: list[Identity | IdentityError] = []
        self.authenticator.identify(Credentials(text, **credentials), answers.append)
        (answer,) = answers
        return answer

    def identity(self, text: str) -> Identity:
        answer = self.answer(text)
        assert isinstance(answer, Identity), answer
        return answer

    def refusal(self, text: str | None, **credentials: Any) -> str:
        answer = self.answer(text, **credentials)
        assert isinstance(answer, IdentityError), answer
        assert answer.status == 401
        assert not text or text not in answer.detail
        return answer.detail


def test_a_token_says_who_its_bearer_is() -> None:
    rooms = [{"pattern": "a:*", "allow": ["join", "watch"]}, {"pattern": "a:1", "allow": ["publish"]}]
    identity = Issued().identity(token(info={"name": "Alice"}, rooms=rooms))
    assert identity.user == "alice"
    assert msgspec.json.decode(identity.info) == {"name": "Alice"}
    assert identity.expires_ms == FAR_S * 1_000
    assert identity.grants is not None
    allowed = {
        (room, action)
        for room in ("a:1", "a:2", "b")
        for action in ("join", "watch", "publish", "update", "signal")
        if identity.grants.allow(action, room)
    }
    assert allowed == {
        ("a:1", "join"),
        ("a:1", "watch"),
        ("a:1", "publish"),
        ("a:2", "join"),
        ("a:2", "watch"),
    }


def test_without_rooms_a_token_leaves_it_to_the_rooms() -> None:
    identity = Issued().identity(token())
    assert identity.grants is None
    assert bytes(identity.info) == b"{}"


def test_an_empty_list_of_rooms_allows_nothing() -> None:
    grants = Issued().identity(token(rooms=[])).grants
    assert grants is not None
    assert not grants.allow("join", "lobby")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_symmetric_algorithm_works(algorithm: str) -> None:
    assert Issued(algorithms=[algorithm]).identity(token(algorithm)).user == "alice"


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("as_file", [True, False])
def test_every_asymmetric_algorithm_works_with_pem(algorithm: str, as_file: bool, tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text(public_pem(algorithm))
    key = str(pem) if as_file else pem.read_text()
    issued = Issued(secret="", public_key=key, algorithms=[algorithm])
    assert issued.identity(token(algorithm)).user == "alice"


def test_an_older_secret_is_still_good_and_a_stranger_s_is_not() -> None:
    older = Issued(secret="the new secret, which is long enough to be", secrets=["another one", SECRET])
    assert older.identity(token()).user == "alice"
    assert "not signed with a key that is known" in Issued(secret="x" * 64).refusal(token())


def test_secrets_can_be_changed_while_running() -> None:
    issued = Issued()
    issued.authenticator.change_keys(AuthSettings(mode="jwt", secret="x" * 64))
    assert "not signed" in issued.refusal(token())
    issued.authenticator.change_keys(AuthSettings(mode="jwt", secret="x" * 64, secrets=[SECRET]))
    assert issued.identity(token()).user == "alice"


# --- attacks ---


def test_a_token_without_a_signature_is_refused() -> None:
    for algorithm in ("none", "None", "NONE"):
        unsigned = f"{part(alg=algorithm)}.{part(sub='alice', exp=FAR_S)}."
        assert "algorithm is not accepted" in Issued().refusal(unsigned)
    stripped = token().rpartition(".")[0] + "."
    assert "not signed" in Issued().refusal(stripped)


def test_the_public_key_is_no_secret() -> None:
    pem = public_pem("RS256")
    signed = f"{part(alg='HS256', typ='JWT')}.{part(sub='alice', exp=FAR_S)}"
    signature = hmac.new(pem.encode(), signed.encode(), hashlib.sha256).digest()
    forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    only_public = Issued(secret="", public_key=pem, algorithms=["RS256"])
    assert "algorithm is not accepted" in only_public.refusal(forged)
    both = Issued(secret=SECRET, public_key=pem, algorithms=["RS256", "HS256"])
    assert "not signed" in both.refusal(forged)
    assert both.identity(token("RS256")).user == "alice"
    assert both.identity(token("HS256")).user == "alice"


def test_a_key_is_used_for_its_own_algorithm_only() -> None:
    issued = Issued(
        secret="", public_key=public_pem("ES256"), algorithms=["ES256", "ES384", "RS256", "EdDSA"]
    )
    for algorithm in ("ES384", "RS256", "EdDSA"):
        assert "not signed" in issued.refusal(token(algorithm))
    assert "algorithm is not accepted" in issued.refusal(token("HS256"))


def test_another_algorithm_than_those_configured_is_refused() -> None:
    assert "algorithm is not accepted" in Issued(algorithms=["HS512"]).refusal(token("HS256"))


@pytest.mark.parametrize("header", [{"jku": "https://evil.example/k"}, {"jwk": {"kty": "oct", "k": "AAAA"}}])
def test_a_key_that_the_token_brings_is_not_used(header: dict[str, Any]) -> None:
    own = f"{part(alg='HS256', **header)}.{part(sub='alice', exp=FAR_S)}"
    signature = hmac.new(b"\x00\x00\x00", own.encode(), hashlib.sha256).digest()
    forged = f"{own}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert "not signed" in Issued().refusal(forged)


def test_a_changed_token_is_refused() -> None:
    header, claims, signature = token().split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed["sub"] = "root"
    assert "not signed" in Issued().refusal(f"{header}.{part(**changed)}.{signature}")


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "..", "a.b.c", "\u20ac", "\x00", token() + ".x", token()[:-4], "Bearer " + token(),
        f"{part(alg=['HS256'])}.e30.", f"{part(alg='HS256', crit=['exp'])}.e30.AAAA",
        "bnVsbA.e30.AAAA", "W10.e30.AAAA", base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.AAAA",
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str) -> None:
    Issued().refusal(text)


def test_a_token_is_no_longer_than_it_may_be() -> None:
    long = token(info={"n": "x" * 3 * TOKEN_CHARS_MAX})
    assert "longer than" in Issued().refusal(long)


def test_of_several_tokens_none_counts() -> None:
    assert "more than one" in Issued().refusal(token(), repeated=True)


def test_a_missing_token_is_named() -> None:
    assert "missing" in Issued().refusal(None)


def test_where_no_public_key_is_configured_none_has_signed_anything() -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        assert "not signed" in Issued(algorithms=["HS256", algorithm]).refusal(token(algorithm))


# --- claims ---


def test_it_ends_at_the_store_s_time() -> None:
    issued = Issued()
    assert issued.identity(token(exp=NOW_S + 1)).expires_ms == (NOW_S + 1) * 1_000
    assert "expired" in issued.refusal(token(exp=NOW_S))
    issued.clock.move(1_000)
    answer = issued.answer(token(exp=NOW_S + 1))
    assert isinstance(answer, IdentityError)
    assert str(answer.code) == "token_expired"


def test_it_begins_when_it_says_but_for_a_small_difference_of_clocks() -> None:
    issued = Issued()
    assert issued.identity(token(nbf=NOW_S + AHEAD_MS // 1_000)).user == "alice"
    assert "not valid yet" in issued.refusal(token(nbf=NOW_S + AHEAD_MS // 1_000 + 1))
    assert issued.identity(token(iat=NOW_S + 10_000)).user == "alice"  # says nothing about validity


def test_both_ends_are_judged_by_the_store_s_time_alone_however_wrong_this_machine_s_is() -> None:
    issued = Issued()
    issued.clock.follow(FAR_S * 1_000)  # far ahead of this machine's
    assert issued.identity(token(nbf=FAR_S - 10, iat=FAR_S - 10, exp=FAR_S + 10)).user == "alice"
    issued.clock.follow(1_000_000)  # far behind it
    assert issued.identity(token(exp=1_001)).expires_ms == 1_001_000


def test_audience_and_issuer_are_those_that_are_asked_for() -> None:
    asked = Issued(audience="chat", issuer="https://me.example")
    good: dict[str, Any] = {"aud": "chat", "iss": "https://me.example"}
    assert asked.identity(token(**good)).user == "alice"
    assert asked.identity(token(**good | {"aud": ["other", "chat"]})).user == "alice"
    for wrong in ({"aud": "other"}, {"aud": ["other"]}, {"aud": None}):
        assert "aud is not" in asked.refusal(token(**good | wrong))
    for wrong in ({"iss": "https://you.example"}, {"iss": None}):
        assert "iss is not" in asked.refusal(token(**good | wrong))
    assert Issued().identity(token(**good)).user == "alice"  # nothing is asked for


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"}, {"sub": "x" * 129}, {"exp": None},
        {"exp": "soon"}, {"exp": 1e400}, {"nbf": "x"}, {"info": []}, {"info": {"n": "x" * 100}},
        {"rooms": "lobby"}, {"rooms": [{"pattern": "a b", "allow": ["join"]}]},
        {"rooms": [{"pattern": "a", "allow": ["fly"]}]}, {"rooms": [{"pattern": "a"}]},
        {"rooms": [{"pattern": "a", "allow": []}] * 101}, {"rooms": [{"pattern": "", "allow": []}]},
    ],
)  # fmt: skip
def test_claims_that_cannot_be_used_are_refused(claims: dict[str, Any]) -> None:
    Issued().refusal(token(**claims))


# --- issuing ---


def test_what_the_server_issues_it_accepts() -> None:
    auth = AuthSettings(mode="jwt", secret=SECRET, algorithms=["RS256", "HS384"], audience="a", issuer="i")
    made = issue(auth, "alice", 60, NOW_S, {"info": {"n": 1}})
    issued = Issued(algorithms=["RS256", "HS384"], audience="a", issuer="i")
    assert issued.identity(made).expires_ms == (NOW_S + 60) * 1_000


@pytest.mark.parametrize("settings", [{"secret": ""}, {"algorithms": ["RS256"]}])
def test_without_a_secret_nothing_is_issued(settings: dict[str, Any]) -> None:
    auth = AuthSettings(**({"mode": "jwt", "secret": SECRET} | settings))
    with pytest.raises(ValueError, match="only their issuer makes"):
        issue(auth, "alice", 60, NOW_S, {})
