"""Presence operations with the fields that a test does not care about filled in."""

from typing import Any

import msgspec

from presence_server.presence.operations import Beat, Done, Enter, Leave, Linger, Outcome
from presence_server.presence.roster import Change
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Reason

TTL_MS = 30_000
CLAIM_MS = 1_000_000


def enter(
    cid: str,
    state: dict[str, Any] | None = None,
    *,
    user: str | None = None,
    info: dict[str, Any] | None = None,
    epoch: int = 1,
    node: str = "n1",
    ttl_ms: int = TTL_MS,
    members_max: int = 0,
) -> Enter:
    """Enter as a user named after the connection, where no other is given."""
    raw = None if state is None else document(state)
    return Enter(cid, user or f"user of {cid}", document(info or {}), raw, epoch, node, ttl_ms, members_max)


def change(cid: str, v: int, state: dict[str, Any] | None = None, *, epoch: int = 1) -> Change:
    """Change to version `v`."""
    return Change(cid, epoch, v, document(state if state is not None else {"v": v}))


def leave(cid: str, *, epoch: int = 1, reason: Reason = "left") -> Leave:
    """Leave at once."""
    return Leave(cid, epoch, reason)


def kick(cid: str, *, epoch: int | None = 1) -> Leave:
    """Remove, and keep out."""
    return Leave(cid, epoch, "kicked", fence=True)


def linger(cid: str, grace_ms: int, *, epoch: int = 1, reason: Reason = "timeout") -> Linger:
    """Go in `grace_ms`."""
    return Linger(cid, epoch, grace_ms, reason)


def beat(*cids: str, epoch: int = 1, ttl_ms: int = TTL_MS) -> Beat:
    """Say that some are alive."""
    return Beat(dict.fromkeys(cids, epoch), ttl_ms)


def done(outcome: Outcome) -> Done:
    """Return the outcome of an operation that was carried out."""
    assert isinstance(outcome, Done), outcome
    return outcome


def decoded(document: Any) -> Any:
    """Return what a document says."""
    return msgspec.json.decode(document)
