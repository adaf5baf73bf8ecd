"""The message rate limits of each connection, and of each user over all connections."""

from collections.abc import Callable
from typing import Final

from presence_server.config.settings import ThrottleSettings
from presence_server.errors import RequestError
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Join, Publish, Update
from presence_server.throttle.algorithms import Bucket, Tokens
from presence_server.throttle.decision import Decision
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

RULES: Final[dict[type, str]] = {Update: "updates", Join: "updates", Publish: "publishes"}
"""The messages counted per user over all nodes, and their rules; of joins only those that change a state."""
_bucket = Bucket()


class MessageRateLimit:
    """Limits what clients send. Messages of a connection are counted where it is: on this node."""

    def __init__(self, limiter: Limiter, throttle: ThrottleSettings) -> None:
        self._limiter = limiter
        self.change_settings(throttle)

    def change_settings(self, throttle: ThrottleSettings) -> None:
        """Go by other settings from now on."""
        rate = throttle.messages
        self._messages = Rule("messages", rate, "bucket", shadow=throttle.shadow) if rate else None

    def count_message(self, bucket: Tokens | None, now_us: int) -> Tokens | None:
        """Take a message's token out of a connection's bucket and return it. Raises `RequestError` if there is none."""
        rule = self._messages
        if rule is None:
            return bucket
        if bucket is not None and bucket[1] != rule.interval_us:
            bucket = _bucket.adapt(bucket, rule, now_us)  # the settings have been read again
        bucket, verdict = _bucket.hit(bucket, rule, 1, now_us)
        if not verdict.allowed and not rule.shadow:
            raise throttled("messages", verdict.retry_us / 1e6)
        return bucket

    def charge_tokens(self, bucket: Tokens | None, tokens: int, now_us: int) -> Tokens | None:
        """Take tokens out of a connection's bucket, whether they are there or not, and return it."""
        rule = self._messages
        if rule is None:
            return bucket
        full, _, blocked = (now_us, 0, 0) if bucket is None else _bucket.adapt(bucket, rule, now_us)
        return max(full, now_us) + tokens * rule.interval_us, rule.interval_us, blocked

    def counts_users(self, rule: str) -> bool:
        """Tell whether messages that `rule` is for are counted for their user."""
        return rule in self._limiter.rules

    def count_for_user(self, rule: str, user: str, done: Callable[[RequestError | None], None]) -> None:
        """Count a message for its user; `done` gets the refusal or None, at once or later on the loop."""

        def decided(decision: Decision) -> None:
            done(None if decision.allowed else throttled(rule, decision.retry_after))

        self._limiter.decide(rule, user, 1, decided)


def throttled(what: str, retry_after_s: float) -> RequestError:
    """Return the refusal of what was too fast."""
    retry_after_ms = max(1, -int(-retry_after_s * 1_000 // 1))
    return RequestError(
        ErrorCode.THROTTLED, f"too many {what}; wait {retry_after_ms} ms", retry_after_ms=retry_after_ms
    )
