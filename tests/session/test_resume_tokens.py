"""Resume tokens: what they say, for how long, and to whom."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.session.resume import SECRETS_MAX, ResumeClaim, ResumeTokens

CLAIM = ResumeClaim("cid", "ann", 3, "node-1", 1_000)


def test_a_token_says_what_was_put_in() -> None:
    tokens = ResumeTokens("secret", 500)
    assert tokens.read(tokens.issue(CLAIM), 1_499) == CLAIM


def test_a_token_ends() -> None:
    tokens = ResumeTokens("secret", 500)
    assert tokens.read(tokens.issue(CLAIM), 1_500) is None


def test_a_token_of_another_key_says_nothing() -> None:
    token = ResumeTokens("secret", 500).issue(CLAIM)
    assert ResumeTokens("other", 500).read(token, 1_000) is None


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\u00e9", "\ud800", "a" * 10_000, "....", "\x00"])
def test_nonsense_is_no_token(token: str) -> None:
    assert ResumeTokens("secret", 500).read(token, 1_000) is None


def test_a_token_without_its_signature_says_nothing() -> None:
    tokens = ResumeTokens("secret", 500)
    token = tokens.issue(CLAIM)
    assert tokens.read(token[: token.rindex(".") + 1], 1_000) is None


# --- by which key ---

KEY = hashlib.sha256(b"presence-server resume token secret").digest()
"""What "secret" signs with, in every version: the nodes of a cluster are not updated at once."""
FIELDS = {"cid": "cid", "user": "ann", "epoch": 3, "node": "node-1", "iat": 1_000}


def test_a_token_is_what_other_versions_read_and_issue() -> None:
    tokens = ResumeTokens("secret", 500)
    token = tokens.issue(CLAIM)
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert jwt.decode(token, KEY, ["HS256"], options={"verify_iat": False}) == FIELDS
    assert tokens.read(jwt.encode(FIELDS, KEY, "HS256"), 1_000) == CLAIM


@given(
    st.builds(
        ResumeClaim,
        cid=st.text(),
        user=st.text(st.characters(exclude_categories=["Cs"]), max_size=128),
        epoch=st.integers(0, 2**63 - 1),
        node=st.text(),
        iat=st.integers(0, 2**53),
    )
)
def test_whatever_a_token_says_a_library_reads_and_makes_the_same(claim: ResumeClaim) -> None:
    tokens, fields = ResumeTokens("secret", 500), msgspec.to_builtins(claim)
    assert jwt.decode(tokens.issue(claim), KEY, ["HS256"], options={"verify_iat": False}) == fields
    assert tokens.read(jwt.encode(fields, KEY, "HS256"), claim.iat) == claim


@pytest.mark.parametrize(
    "header",
    [{"typ": "at+jwt"}, {"kid": "1"}, {"crit": ["exp"]}, {"alg": "none"}, {"jku": "https://example.com"}],
    ids=repr,
)
def test_a_token_with_another_header_is_none(header: dict[str, Any]) -> None:
    """Signed with the right key all the same: nothing in a token says how it is to be checked."""
    parts = ({"alg": "HS256", "typ": "JWT"} | header, FIELDS)
    signed = b".".join(urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=") for part in parts)
    signature = urlsafe_b64encode(hmac.digest(KEY, signed, "sha256")).rstrip(b"=")
    assert ResumeTokens("secret", 500).read(f"{signed.decode()}.{signature.decode()}", 1_000) is None


@given(st.data())
def test_a_token_has_one_spelling(data: st.DataObject) -> None:
    tokens = ResumeTokens("secret", 500)
    token = tokens.issue(CLAIM)
    at = data.draw(st.integers(0, len(token)))
    until = data.draw(st.integers(at, len(token)))
    changed = token[:at] + data.draw(st.text(max_size=4)) + token[until:]
    assert (tokens.read(changed, 1_000) == CLAIM) is (changed == token)


def test_a_token_is_read_in_the_moment_in_which_it_was_issued() -> None:
    """Its time is in ms: taken for seconds it would lie far in the future."""
    now_ms = 1_800_000_000_000
    claim, tokens = ResumeClaim("cid", "ann", 3, "node-1", now_ms), ResumeTokens("secret", 500)
    assert tokens.read(tokens.issue(claim), now_ms) == claim


@pytest.mark.parametrize("key", [b"secret", hashlib.sha256(b"secret").digest()])
def test_what_the_secret_signs_elsewhere_is_no_token(key: bytes) -> None:
    assert ResumeTokens("secret", 500).read(jwt.encode(FIELDS, key.ljust(32, b"."), "HS256"), 1_000) is None


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "none"])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    key: Any = None if algorithm == "none" else KEY
    token = jwt.encode(FIELDS, key, algorithm)
    assert ResumeTokens("secret", 500).read(token, 1_000) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"cid": 1},
        {"epoch": "3"},
        {"epoch": None},
        {"user": None},
        {"iat": "1000"},
        pytest.param({"exp": 1}, id="expired by its own account"),
        pytest.param({"nbf": 2**40}, id="not good yet by its own account"),
        pytest.param({"aud": "somebody"}, id="for somebody else"),
    ],
)
def test_signed_nonsense_is_no_token(wrong: dict[str, Any]) -> None:
    token = jwt.encode({**FIELDS, **wrong}, KEY, "HS256")
    assert ResumeTokens("secret", 500).read(token, 1_000) is None


def test_a_token_without_a_field_is_none() -> None:
    for name in FIELDS:
        token = jwt.encode({key: value for key, value in FIELDS.items() if key != name}, KEY, "HS256")
        assert ResumeTokens("secret", 500).read(token, 1_000) is None, name


# --- another secret ---


def test_the_last_few_secrets_are_accepted_and_the_newest_signs() -> None:
    tokens = ResumeTokens("first", 500)
    issued = [tokens.issue(CLAIM)]
    for n in range(1, SECRETS_MAX):
        tokens.sign_with(f"secret {n}")
        issued.append(tokens.issue(CLAIM))
    assert SECRETS_MAX == 3
    assert [tokens.read(token, 1_000) for token in issued] == [CLAIM] * 3
    assert tokens.secret == "secret 2"
    assert [ResumeTokens(tokens.secret, 500).read(token, 1_000) for token in issued] == [None, None, CLAIM]
    tokens.sign_with("one more")
    assert [tokens.read(token, 1_000) for token in issued] == [None, CLAIM, CLAIM]


def test_the_same_secret_again_pushes_no_other_out() -> None:
    tokens = ResumeTokens("first", 500)
    issued = tokens.issue(CLAIM)
    for _ in range(2 * SECRETS_MAX):
        tokens.sign_with("second")
    assert tokens.read(issued, 1_000) == CLAIM


def test_a_token_of_an_older_secret_ends_too() -> None:
    tokens = ResumeTokens("first", 500)
    issued = tokens.issue(CLAIM)
    tokens.sign_with("second")
    assert (tokens.read(issued, 1_499), tokens.read(issued, 1_500)) == (CLAIM, None)


def test_a_claim_is_not_changed() -> None:
    with pytest.raises(AttributeError):
        CLAIM.epoch = 4  # type: ignore[misc]  # that is what is tried
