"""The check before the upgrade: whom a connection is counted as, and whether it may connect."""

from collections.abc import Callable

from presence_server.config.settings import ProxySettings, ThrottleSettings
from presence_server.edge.upgrade_refusals import HandshakeError
from presence_server.logs import FloodLog
from presence_server.throttle.address import Address, ClientAddresses, contains, networks
from presence_server.throttle.configured import RESUMES_OF_CID
from presence_server.throttle.decision import Decision
from presence_server.throttle.headers import exceeded, problem
from presence_server.throttle.leases import NAME as CONCURRENT
from presence_server.throttle.leases import Leases
from presence_server.throttle.limiter import Limiter

FULL_RETRY_AFTER_S = 5
Refused = HandshakeError | None
_throttled = FloodLog(__name__, "handshake throttled")
_crowded = FloodLog(__name__, "too many connections at a time")


class Gate:
    """Counts handshakes and connections by address, over all nodes."""

    def __init__(
        self, throttle: ThrottleSettings, proxy: ProxySettings, limiter: Limiter, ttl_ms: int
    ) -> None:
        self.leases = Leases(limiter, throttle.concurrent_per_ip, ttl_ms)
        self.proxied = proxy.protocol
        """Whether trusted proxies begin with a PROXY header."""
        self._limiter = limiter
        self._proxy = proxy
        self.change_settings(throttle)

    def change_settings(self, throttle: ThrottleSettings) -> None:
        """Go by other settings from now on."""
        proxy = self._proxy
        self.addresses = ClientAddresses(proxy.trusted, proxy.header, throttle.ipv6_prefix)
        self.closes = throttle.deny == "close"
        """Whether browsers are told with a close code, which they can read, and not with a status."""
        self._allowed = networks(throttle.allow)
        self._shadow = throttle.shadow
        self.leases.change_limit(throttle.concurrent_per_ip)

    def admit(self, address: Address | None, *, resumes: bool, done: Callable[[Refused, str], None]) -> None:
        """Let one connection in, or not; at once, or later on the loop.

        `done` gets the refusal, with 429, or None; then also the lease that must be given back with
        `release_lease`, "" where there is none.
        """
        if address is not None and contains(self._allowed, address):
            done(None, "")
            return
        key = self.addresses.key(address)
        rule = "resume" if resumes else "connect"
        if rule not in self._limiter.rules:
            self._admit_unlimited(rule, key, done)
            return

        def decided(decision: Decision) -> None:
            if decision.source == "allow_list":
                done(None, "")
            elif decision.allowed:
                self._acquire_lease(key, done)
            else:
                _throttled.note(address=key, rule=rule, source=decision.source)
                detail = f"too many connections from {key}; try again in {decision.retry_after:.1f} s"
                headers = [*decision.headers().items()]
                done(HandshakeError(429, detail, headers, problem(decision, detail)), "")

        self._limiter.decide(rule, key, 1, decided)

    def count_resume(self, cid: str, done: Callable[[bool], None]) -> None:
        """Count a handshake that brings a good resume token; `done` is told whether its cid may resume again."""
        if RESUMES_OF_CID not in self._limiter.rules:
            done(True)
        else:
            self._limiter.decide(RESUMES_OF_CID, cid, 1, lambda decision: done(decision.allowed))

    def release_lease(self, lease: str) -> None:
        """Give a connection's place back."""
        if lease:
            self.leases.release_lease(lease)

    def _admit_unlimited(self, rule: str, key: str, done: Callable[[Refused, str], None]) -> None:
        """Go by the lists alone, where no rule counts handshakes."""
        allowed, retry_us = self._limiter.lists.says(rule, key)
        if allowed:
            done(None, "")
        elif allowed is None or self._shadow:
            self._acquire_lease(key, done)
        else:
            _throttled.note(address=key, rule=rule, source="deny_list")
            headers = [("Retry-After", str(max(1, -(-retry_us // 1_000_000))))]
            done(HandshakeError(429, f"{key} is denied", headers), "")

    def _acquire_lease(self, key: str, done: Callable[[Refused, str], None]) -> None:
        def leased(admitted: bool) -> None:
            if admitted:
                done(None, key)
                return
            _crowded.note(address=key)
            if self._shadow:
                done(None, "")
                return
            headers = [("Retry-After", str(FULL_RETRY_AFTER_S))]
            detail = f"too many connections at a time from {key}"
            done(HandshakeError(429, detail, headers, exceeded([CONCURRENT], detail)), "")

        self.leases.acquire_lease(key, leased)
