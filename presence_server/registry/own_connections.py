"""The connections of this node, as the shared registry is told of them: noted, renewed within their lease, forgotten.

The store may forget them, and a call may be lost. What could not be told is told again with a later sweep.
"""

from collections import OrderedDict
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from presence_server.clock import Clock
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.registry.noted_users import LEASE_MS

PACKAGE: Final = "presence_server.registry"
OPENED: Final = Script(PACKAGE, "opened")
LOCATED: Final = Script(PACKAGE, "located")
CLOSED: Final = Script(PACKAGE, "closed")
FORGET: Final = Script(PACKAGE, "forget")
DEPARTED_MAX: Final = 100_000
"""Ended connections that are told on the store's return; of more the lease ends."""
FIRST_EPOCH: Final = 1
"""The epoch of a connection that has not been resumed: no other node has had it."""
RENEWALS_MAX: Final = 500
"""Connections noted anew in one sweep, and ends told again."""


class HeldConnection(NamedTuple):
    """A connection of this node: whose it is, since when, its epoch, and when it is to be noted anew."""

    user: str
    at: int
    epoch: int
    due_ms: int


class OwnConnections:
    """Every connection of this node, as the store is told of it. `last_seen_ms` is how long a user is remembered."""

    def __init__(self, queries: Queries, keys: Keys, clock: Clock, *, node: str, last_seen_ms: int) -> None:
        self._queries = queries
        self._keys = keys
        self._clock = clock
        self._node = node
        self._last_seen_ms = last_seen_ms
        self.remembered_ms = max(last_seen_ms, LEASE_MS)
        """For how long the store keeps what it is told."""
        self._here: OrderedDict[str, HeldConnection] = OrderedDict()
        """Every connection of this node, by cid; the one to be noted anew next is first."""
        self._unnoted: dict[tuple[str, Script], None] = {}
        """Connections here that could not be noted, each with the script that is to be called again."""
        self._incarnation = 0
        self.least_incarnation = 0
        """The least incarnation that counts: entries that this node noted in an earlier one do not."""
        self._completing = 0
        """The incarnation of which every connection is noted once the calls made so far have run; 0: none."""
        self._departed: dict[str, str] = {}
        """Connections, with their users, whose end the store has not been told."""

    def opened(self, user: str, cid: str, at: int, epoch: int = 1) -> None:
        """Note that a connection is here."""
        is_first = epoch == FIRST_EPOCH and cid not in self._here
        self._forget(cid)
        self._departed.pop(cid, None)
        self._here[cid] = HeldConnection(user, at, epoch, self._clock.now_ms() + LEASE_MS // 3)
        if is_first:
            self._locate_first(cid)
        else:
            self._note(cid, LOCATED)
        self._note(cid, OPENED)

    def withhold(self, cid: str) -> None:
        """Stop renewing a connection until `opened` is called for it again."""
        self._forget(cid)

    def closed(self, user: str, cid: str) -> None:
        """Note that a connection has ended."""
        self._forget(cid)
        lost = partial(self._keep_departed, user, cid)
        self._queries.tell(script_call(FORGET, [self._keys.connection(cid)], (self._node,)), lost)
        arguments = (cid, self._node, self._last_seen_ms)
        self._queries.tell(script_call(CLOSED, self._keys.user(user), arguments), lost)

    def renew_due(self) -> None:
        """Note connections anew whose lease has run for a while, and tell of ends that could not be told."""
        now_ms = self._clock.now_ms()
        for _ in range(min(len(self._here), RENEWALS_MAX)):
            cid, held = next(iter(self._here.items()))
            if held.due_ms > now_ms:
                break
            self.opened(held.user, cid, held.at, held.epoch)
        for unnoted in list(islice(self._unnoted, RENEWALS_MAX)):
            del self._unnoted[unnoted]  # one that fails again goes to the end, behind all others
            self._note(*unnoted)
        for cid in list(islice(self._departed, RENEWALS_MAX)):
            self.closed(self._departed.pop(cid), cid)
        if self._incarnation not in (self.least_incarnation, self._completing) and not self._is_due():
            self._completing = self._incarnation
            completed = partial(self._complete, self._incarnation)
            self._queries.tell(Call(("TIME",)), partial(self._complete, 0), completed)

    def renew_all(self) -> None:
        """Have every connection noted anew, soon.

        The store may be an older one, in which connections are noted that have ended since. So this begins another
        incarnation of this node; when every connection is noted in it, nothing counts that was noted in an earlier one.
        """
        # The time: a node that is restarted under the same id goes on above what it noted before.
        self._incarnation = max(self._incarnation + 1, self._clock.wall_ms())
        self._here = OrderedDict((cid, held._replace(due_ms=0)) for cid, held in self._here.items())
        self._unnoted.clear()

    def _note(self, cid: str, script: Script) -> None:
        """Note where a connection is, or that its user has it; in a Cluster two servers may keep these."""
        held = self._here[cid]
        if script is LOCATED:
            arguments = (self._node, self._incarnation, held.epoch, held.user, LEASE_MS)
            call = script_call(LOCATED, [self._keys.connection(cid)], arguments)
        else:
            noted = (cid, self._node, held.at, LEASE_MS, self.remembered_ms, self._incarnation, held.epoch)
            call = script_call(OPENED, self._keys.user(held.user)[:1], noted)
        self._queries.tell(call, partial(self._note_again, cid, script))

    def _locate_first(self, cid: str) -> None:
        """Note where a new connection is by a plain command: the script takes the store three times as long."""
        held = self._here[cid]
        entry = f"{self._node} {self._incarnation} {held.epoch} {held.user}"
        self._queries.tell(
            Call(("SET", self._keys.connection(cid), entry, "PX", LEASE_MS, "NX")),
            partial(self._note_again, cid, LOCATED),
            partial(self._note_unless_located, cid),
        )

    def _note_unless_located(self, cid: str, answer: bytes | None) -> None:
        """Have the script decide between this connection and what somebody has noted before."""
        if answer is None and cid in self._here:
            self._note(cid, LOCATED)

    def _forget(self, cid: str) -> None:
        self._here.pop(cid, None)
        for script in (LOCATED, OPENED):
            self._unnoted.pop((cid, script), None)

    def _note_again(self, cid: str, script: Script) -> None:
        """Have a connection noted again with the next sweep: the server that was to note it is out of reach."""
        if cid in self._here:
            self._unnoted[cid, script] = None

    def _is_due(self) -> bool:
        """Tell whether a connection is still to be noted anew."""
        if self._unnoted:
            return True
        return bool(self._here) and next(iter(self._here.values())).due_ms <= self._clock.now_ms()

    def _complete(self, incarnation: int, _time: object = None) -> None:
        """Let nothing count that was noted before an incarnation if every connection is noted in it; 0: it is not."""
        self._completing = 0
        if incarnation == self._incarnation and not self._is_due():
            self.least_incarnation = incarnation

    def _keep_departed(self, user: str, cid: str) -> None:
        if len(self._departed) < DEPARTED_MAX and cid not in self._here:
            self._departed[cid] = user
