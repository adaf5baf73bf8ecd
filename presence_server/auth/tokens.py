"""`auth.mode = "jwt"`: a signed token says who the client is (RFC 7519), checked as RFC 8725 asks."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import jwt
import msgspec
from jwt.warnings import InsecureKeyLengthWarning

from presence_server.auth.identity import (
    Credentials,
    Identified,
    Identity,
    IdentityError,
    checked_info,
    checked_user,
)
from presence_server.auth.jwks import Jwks
from presence_server.auth.verification_keys import fits, is_symmetric
from presence_server.clock import Clock
from presence_server.config.public_key import PublicKey, read_public_key
from presence_server.config.settings import AuthSettings
from presence_server.grants import GrantList, Grants
from presence_server.protocol.codes import ErrorCode

TOKEN_CHARS_MAX: Final = 4_096
AHEAD_MS: Final = 5_000
"""The issuer's clock may be ahead of the store's by this much: a fresh token must not be refused for `nbf`."""
INVALID: Final = "the token is not valid"


class TokenClaims(msgspec.Struct, frozen=True):
    """The claims of a token; times in seconds since 1970. Without `rooms` it allows what the rooms' own rules allow."""

    sub: str
    exp: int | float
    nbf: int | float = 0
    info: dict[str, Any] = {}
    rooms: GrantList | msgspec.UnsetType = msgspec.UNSET


class TokenAuthenticator:
    """Checks JWTs against configured secrets, a public key and an issuer's published keys.

    Of what is wrong with a token a client is told its kind; nothing of the token itself is repeated.
    """

    def __init__(self, auth: AuthSettings, clock: Clock, info_bytes_max: int, jwks: Jwks | None) -> None:
        # Said once at start, where the operator reads it; not for every token.
        warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)
        self._clock = clock
        self._info_bytes_max = info_bytes_max
        self._jwks = jwks
        self.change_keys(auth)

    def change_keys(self, auth: AuthSettings) -> None:
        """Use other keys from now on; connections stay open. Raises as `read_public_key`."""
        public_key = read_public_key(auth.public_key) if auth.public_key else None
        self._public_keys: list[PublicKey] = [] if public_key is None else [public_key]
        self._secrets = [secret for secret in (auth.secret, *auth.secrets) if secret]
        self._algorithms = frozenset(auth.algorithms)
        self._audience = auth.audience or None
        self._issuer = auth.issuer or None

    def identify(self, credentials: Credentials, done: Identified) -> None:
        """Check a token; at once, unless its key has to be fetched."""
        try:
            token, algorithm, kid = self._read_header(credentials)
        except IdentityError as exc:
            done(exc)
            return
        if is_symmetric(algorithm):
            done(self._check(token, algorithm, self._secrets))
            return
        keys = [key for key in self._public_keys if fits(key, algorithm)]
        if self._jwks is None:
            done(self._check(token, algorithm, keys))
        else:
            found = partial(self._found, token, algorithm, keys, done)
            self._jwks.find(kid, algorithm, found)

    def hold(self, session: str, ttl_ms: int) -> None:
        """Do nothing: no client has an opaque session."""

    def let_go(self, session: str) -> None:
        """Do nothing: no client has an opaque session."""

    def _read_header(self, credentials: Credentials) -> tuple[str, str, str | None]:
        """Return the token, its algorithm and the name of its key, none of which is proven yet."""
        token = credentials.token
        if credentials.repeated:
            raise IdentityError(401, "more than one token")
        if not token:
            raise IdentityError(401, "a token is missing")
        if len(token) > TOKEN_CHARS_MAX:
            raise IdentityError(401, f"the token is longer than {TOKEN_CHARS_MAX} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise IdentityError(401, INVALID) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise IdentityError(401, "the token's algorithm is not accepted")
        return token, algorithm, kid if isinstance(kid, str) else None

    def _found(
        self, token: str, algorithm: str, keys: list[PublicKey], done: Identified, published: list[PublicKey]
    ) -> None:
        known = [*keys, *published]
        if not known and self._jwks is not None and not self._jwks.ready:
            done(IdentityError(503, "the issuer's keys could not be read yet; try again"))
        else:
            done(self._check(token, algorithm, known))

    def _check(self, token: str, algorithm: str, keys: Sequence[str | PublicKey]) -> Identity | IdentityError:
        try:
            return self._identity(self._claims(token, algorithm, keys))
        except IdentityError as exc:
            return exc

    def _claims(self, token: str, algorithm: str, keys: Sequence[str | PublicKey]) -> TokenClaims:
        # Times go by the store's clock, below; the library's own checks go by this machine's.
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        options["verify_aud"] = self._audience is not None
        for key in keys:
            try:
                fields = jwt.decode(
                    token, key, [algorithm], options, audience=self._audience, issuer=self._issuer
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue
            except (jwt.InvalidAudienceError, jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as exc:
                name = getattr(exc, "claim", "iss" if isinstance(exc, jwt.InvalidIssuerError) else "aud")
                raise IdentityError(401, f"the token's {name} is not the one that is asked for") from None
            except (jwt.InvalidTokenError, ValueError, RecursionError):
                raise IdentityError(401, INVALID) from None
            try:
                return msgspec.convert(fields, TokenClaims)
            except (msgspec.ValidationError, RecursionError) as exc:
                raise IdentityError(401, f"the token's claims cannot be used: {exc}") from None
        raise IdentityError(401, "the token is not signed with a key that is known")

    def _identity(self, claims: TokenClaims) -> Identity:
        now_ms = self._clock.wall_ms()
        try:
            expires_ms, begins_ms = int(claims.exp * 1_000), int(claims.nbf * 1_000)
        except (OverflowError, ValueError):
            raise IdentityError(401, "the token's times cannot be used") from None
        if now_ms >= expires_ms:
            raise IdentityError(401, "the token has expired", ErrorCode.TOKEN_EXPIRED)
        if now_ms < begins_ms - AHEAD_MS:
            raise IdentityError(401, "the token is not valid yet")
        user = checked_user(claims.sub, 401)
        info = checked_info(claims.info, self._info_bytes_max, 401)
        try:
            grants = None if isinstance(claims.rooms, msgspec.UnsetType) else Grants(claims.rooms)
        except ValueError as exc:
            raise IdentityError(401, f"the token's rooms cannot be used: {exc}") from None
        return Identity(user, info, grants, expires_ms)


def issue(auth: AuthSettings, user: str, ttl_s: float, now_s: float, claims: dict[str, Any]) -> str:
    """Make a token that this server accepts.

    Raises `ValueError` where it has no secret to sign with: who holds a public key only cannot.
    """
    algorithm = next((name for name in auth.algorithms if is_symmetric(name)), None)
    if algorithm is None or not auth.secret:
        raise ValueError(
            "tokens are signed with auth.secret and an HS… algorithm; others only their issuer makes"
        )
    fields = {"sub": user, "iat": int(now_s), "exp": int(now_s + ttl_s), **claims}
    if auth.audience:
        fields["aud"] = auth.audience
    if auth.issuer:
        fields["iss"] = auth.issuer
    return jwt.encode(fields, auth.secret, algorithm)
