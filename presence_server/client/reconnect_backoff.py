"""Delays before a client reconnects after a connection ended or a handshake failed. Pure: chance is an argument.

The delays are exponential backoff with full jitter: uniform between zero and a bound that doubles with each
attempt ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from presence_server.protocol.codes import Advice, advice

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 20.0
STABLE_S = 10.0
"""A failure counts as the first when the connection before it held for so long."""


def jittered(attempt: int, chance: float) -> float:
    """Return the delay in seconds before the attempt after `attempt` failures; `chance` is in [0, 1)."""
    bound: float = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 16))
    return chance * bound


def after_close(code: int, reconnect_ms: int | None, attempt: int, chance: float) -> float | None:
    """Return how many seconds to wait after a close code; None: do not come back as is.

    `reconnect_ms` is what the server's `bye` asked for: the servers spread it over their clients already.
    A normal closure that this client did not ask for is a proxy's or a server's going away: back off.
    """
    match advice(code):
        case Advice.STOP | Advice.FIX:
            return None
        case Advice.RECONNECT if reconnect_ms is not None and attempt == 0:
            return reconnect_ms / 1000
        case Advice.RECONNECT:
            delay = jittered(attempt, chance)
        case Advice.BACK_OFF | Advice.NOTHING:
            delay = jittered(attempt + 1, chance)
    return max(delay, (reconnect_ms or 0) / 1000)


def after_refusal(status: int, retry_after: str | None, attempt: int, chance: float) -> float | None:
    """Return how many seconds to wait after an HTTP status; None: trying again cannot help.

    `retry_after` is the header's value; only its form in seconds is understood, which is what the server
    sends. The jitter comes on top of it, since everybody who was refused got the same number.
    """
    if 400 <= status < 500 and status not in {408, 425, 429}:
        return None
    wait_s = int(retry_after) if retry_after is not None and retry_after.strip().isdecimal() else 0
    return wait_s + jittered(attempt + 1, chance)
