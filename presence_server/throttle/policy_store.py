"""Stores of the policy: the port, one in this process, and one in the store that nodes share."""

import secrets
from typing import Final, NamedTuple, Protocol

from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Script, script_call

PACKAGE: Final = "presence_server.throttle"
LOOK: Final = Script(PACKAGE, "policy_look")
CHANGE: Final = Script(PACKAGE, "policy_change")
TTL_MS: Final = 366 * 86_400_000
"""The time for which the policy outlives the last node that looks at it."""


class Mark(NamedTuple):
    """The identity of a stored policy. Two of one version differ by their tags: a failover may have lost one."""

    version: int = 0
    tag: str = ""


class Found(NamedTuple):
    """The stored policy; `document` None: the caller knows it already."""

    mark: Mark
    document: bytes | None


class PolicyStore(Protocol):
    """Keeps one document, with a version. Every call may raise `StoreAwayError`."""

    async def read_policy(self, known: Mark) -> Found:
        """Return what there is; version 0: nothing."""

    async def replace_policy(self, version: int, new: Mark, document: bytes) -> bool:
        """Put a document in place of that version (0: none), as one step; tell whether that was the one there."""


def new_tag() -> str:
    """Make a tag."""
    return secrets.token_hex(8)


class MemoryPolicyStore:
    """The policy of a process on its own, which ends with it."""

    def __init__(self) -> None:
        self._mark = Mark()
        self._document = b""

    async def read_policy(self, known: Mark) -> Found:
        """Return what there is."""
        return Found(self._mark, None if known == self._mark else self._document)

    async def replace_policy(self, version: int, new: Mark, document: bytes) -> bool:
        """Put a document in place of that version."""
        if version != self._mark.version:
            return False
        self._mark, self._document = new, document
        return True


class RedisPolicyStore:
    """A policy store in Redis or Valkey; see `PolicyStore` for what it promises."""

    def __init__(self, queries: Queries, keys: Keys) -> None:
        self._queries = queries
        self._keys = keys

    async def read_policy(self, known: Mark) -> Found:
        """Return what there is."""
        call = script_call(LOOK, [self._keys.policy()], (known.version, known.tag, TTL_MS))
        (answer,) = await self._queries.ask(call)
        version, tag, *document = answer
        mark = Mark(int(version), bytes(tag).decode())
        return Found(mark, bytes(document[0]) if document else None)

    async def replace_policy(self, version: int, new: Mark, document: bytes) -> bool:
        """Put a document in place of that version."""
        arguments = (version, new.version, new.tag, document, TTL_MS, self._keys.policy_channel())
        (answer,) = await self._queries.ask(script_call(CHANGE, [self._keys.policy()], arguments))
        return bool(answer)
