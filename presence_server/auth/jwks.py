"""The keys that an issuer publishes: fetched in the background, kept while the issuer cannot be reached."""

from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final

import anyio
import anyio.to_thread
import jwt
import structlog

from presence_server.auth.verification_keys import PublishedKey, fits, read_jwks
from presence_server.clock import Clock
from presence_server.config.public_key import PublicKey

TIMEOUT_S: Final = 5.0
REFRESH_S: Final = 300.0
"""A key that the issuer has withdrawn is not accepted any longer than this."""
FLOOR_MS: Final = 10_000
"""Tokens with unknown keys, which anybody can send, cause no more than one fetch in this time."""
WAITING_MAX: Final = 10_000

log = structlog.get_logger()


def fetch(url: str) -> Any:
    """Return what is at `url`. Blocks for up to `TIMEOUT_S`; raises `jwt.PyJWKClientError` or `ValueError`."""
    return jwt.PyJWKClient(url, cache_jwk_set=False, timeout=TIMEOUT_S).fetch_data()


class Jwks:
    """A JWK Set by URL. `run` keeps it fresh; what is known stays known while the URL cannot be read."""

    def __init__(self, url: str, clock: Clock, fetch: Callable[[str], Any] = fetch) -> None:
        self.ready = False
        """Whether the keys have been read once; until then no token with such a key can be checked."""
        self._url = url
        self._clock = clock
        self._fetch = fetch
        self._keys: list[PublishedKey] = []
        self._fetched_ms: int | None = None
        self._wanted = anyio.Event()
        self._waiting: list[Callable[[], None]] = []

    async def run(self) -> None:
        """Fetch now, then from time to time and whenever a token names an unknown key."""
        while True:
            self._wanted = anyio.Event()
            await self.refresh()
            with anyio.move_on_after(REFRESH_S):
                await self._wanted.wait()

    async def refresh(self) -> None:
        """Fetch the keys, and answer the clients that wait for them."""
        self._fetched_ms = self._clock.now_ms()
        try:
            found = read_jwks(await anyio.to_thread.run_sync(self._fetch, self._url, abandon_on_cancel=True))
        except (jwt.PyJWTError, HTTPException, ValueError, TypeError, OSError) as exc:
            log.warning("the issuer's keys cannot be read; known ones stay", url=self._url, error=str(exc))
        else:
            self._keys, self.ready = found, True
            if not found:
                log.warning("the issuer publishes no key that can be used", url=self._url)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def find(self, kid: str | None, algorithm: str, done: Callable[[list[PublicKey]], None]) -> None:
        """Call `done` with the keys that may have signed a token; none where none is known, also after a fetch."""
        known = self._known(kid, algorithm)
        fetched_ms = self._fetched_ms
        early = fetched_ms is not None and self._clock.now_ms() - fetched_ms < FLOOR_MS
        fetching = self._wanted.is_set() or fetched_ms is None
        if known or len(self._waiting) >= WAITING_MAX or (early and not fetching):
            done(known)
            return
        self._waiting.append(lambda: done(self._known(kid, algorithm)))
        self._wanted.set()

    def _known(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        return [
            published.key
            for published in self._keys
            if kid in {None, published.kid}
            and published.algorithm in {None, algorithm}
            and fits(published.key, algorithm)
        ]
