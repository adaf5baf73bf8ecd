"""One room's watchers on this node, and what they are sent each tick.

Changes of the roster gather in the room's open batch, which ends as one diff. Events (messages, signals) of a
tick are a log that is encoded once an encoding and given to every watcher as one piece. A message closes the
open batch first, so that a member's messages never arrive before its join.

A watcher is in one of three states. Live: it is in its group, and is sent everything as it happens. Awaiting sync: it
is sent one when the batch closes, so that only newer changes follow it. Lagging: its connection is behind; a sync that
it is owed waits for that, too.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from presence_server.hub.window import RETURN_MS, RETURN_QUIET_MS, due_ms
from presence_server.protocol.messages import Count, Diff, Message, Mode, Published, Signal, Stale

if TYPE_CHECKING:
    from presence_server.hub.hub import Hub
    from presence_server.hub.outbox import Outbox
    from presence_server.hub.ports import Encoding, RosterSource

FULL: Final[frozenset[Mode]] = frozenset(("full",))
COUNT: Final[frozenset[Mode]] = frozenset(("count",))
EVERYBODY: Final[frozenset[Mode]] = FULL | COUNT | {"none"}


class OwedSync(NamedTuple):
    """A sync that a watcher has not been sent yet: the reply to a request (`asked`), or one that the room owes it."""

    request_id: int | None
    asked: bool


UNASKED: Final = OwedSync(None, asked=False)


class Watcher:
    """One connection's interest in one room."""

    __slots__ = ("channel", "cid", "held", "is_member", "missed", "mode", "outbox", "owed")

    def __init__(self, channel: "Channel", outbox: "Outbox", cid: str, mode: Mode) -> None:
        self.channel = channel
        self.outbox = outbox
        self.cid = cid
        self.mode: Mode = mode
        self.is_member = False
        """Whether the connection is a member too."""
        self.owed: list[OwedSync] | None = None
        """The syncs owed to the watcher; None: no sync is owed. Several: each request has its own reply."""
        self.held: list[bytes] | None = None
        """Messages that wait until the connection has caught up."""
        self.missed = False
        """Whether roster changes were left out."""

    def hold_message(self, frame: bytes) -> None:
        """Keep a message until the connection has caught up."""
        if self.held is None:
            self.held = []
        self.held.append(frame)
        self.outbox.count_held(len(frame))

    def drop_held(self) -> bytes:
        """Return the messages that were kept, and keep them no longer."""
        held = b"".join(self.held or ())
        self.held = None
        self.outbox.held_bytes -= len(held)
        return held


class Entry:
    """One event of a tick's log, encoded once for each encoding."""

    __slots__ = ("_frames", "audience", "message", "sender")

    def __init__(self, message: Message, audience: frozenset[Mode], sender: str | None = None) -> None:
        self.message = message
        self.audience = audience
        self.sender = sender
        self._frames: dict[Encoding, bytes] = {}

    def frame(self, encoding: "Encoding") -> bytes:
        """Return the bytes for one encoding."""
        frame = self._frames.get(encoding)
        if frame is None:
            frame = self._frames[encoding] = encoding.encode(self.message)
        return frame

    @property
    def is_message(self) -> bool:
        """Whether a watcher that is behind gets it later."""
        return isinstance(self.message, Published)

    @property
    def is_roster(self) -> bool:
        """Whether a watcher that is behind needs a sync instead, which has all that these say."""
        return isinstance(self.message, Diff | Count | Stale)


class Channel:
    """The watchers of one room."""

    __slots__ = (
        "_awaiting_sync",
        "_crowded",
        "_diff_sent_ms",
        "_groups",
        "_log",
        "_open",
        "_returned_ms",
        "_returns_until_ms",
        "_signals",
        "hub",
        "lagging",
        "source",
        "watchers",
    )

    def __init__(self, hub: "Hub", source: "RosterSource") -> None:
        self.hub = hub
        self.source = source
        self.watchers: dict[str, Watcher] = {}
        self.lagging: dict[str, Watcher] = {}
        self._groups: dict[tuple[Encoding, Mode], dict[str, Watcher]] = {}
        self._awaiting_sync: dict[str, Watcher] = {}
        self._log: list[Entry] = []
        self._signals: dict[tuple[str, str], Entry] = {}
        self._open = False
        self._diff_sent_ms = -(2**62)
        self._crowded = False
        self._returned_ms: int | None = None
        """The time at which the first member returned to a room that this process did not know."""
        self._returns_until_ms = self._diff_sent_ms
        """The end of the time in which further returns are awaited and the batch stays open."""

    def add_watcher(self, watcher: Watcher, request_id: int | None) -> None:
        """Add a watcher, or one that asks again: it is owed a sync."""
        self.watchers[watcher.cid] = watcher
        self._owe(watcher, OwedSync(request_id, asked=True))

    def remove_watcher(self, cid: str) -> None:
        """Remove a watcher. Syncs that it has asked for are sent all the same, since every request has its reply."""
        watcher = self.watchers.pop(cid, None)
        if watcher is not None:
            self._remove_from_state(watcher)
            while watcher.owed and not watcher.outbox.is_over:
                self._send_owed(watcher)
            watcher.owed = None
            watcher.drop_held()

    def await_returns(self, now_ms: int) -> None:
        """Note that a member has returned to a room that this process did not know: others may follow at once."""
        if self._returned_ms is None:
            self._returned_ms = now_ms
        self._returns_until_ms = min(now_ms + RETURN_QUIET_MS, self._returned_ms + RETURN_MS)

    def note_change(self) -> None:
        """Note that the roster has changed."""
        self._open = True
        self.hub.activate(self)

    def add_message(self, message: Published) -> None:
        """Send a message to every watcher but its sender, after the changes before it."""
        self._close_batch()
        self._log.append(Entry(message, EVERYBODY, message.cid))
        self.hub.activate(self)

    def add_signal(self, signal: Signal) -> None:
        """Send the latest signal of a tick to every watcher but its sender, unless there is too much to do."""
        if self.hub.sheds_signal():
            return
        key = (signal.cid, signal.key)
        entry = self._signals.get(key)
        if entry is not None:
            entry.message = signal
            return
        entry = self._signals[key] = Entry(signal, EVERYBODY, signal.cid)
        self._log.append(entry)
        self.hub.activate(self)

    def announce(self, message: Message) -> None:
        """Send every watcher something about the room itself."""
        self._log.append(Entry(message, EVERYBODY))
        self.hub.activate(self)

    def flush(self, now_ms: int) -> int | None:
        """End a tick. Return when the open batch is due, if it is not yet."""
        due = None
        if self._open or self._awaiting_sync:
            due = due_ms(now_ms, self._diff_sent_ms, self.source.members) if self._open else now_ms
            due = max(due, self._returns_until_ms)
            if due <= now_ms:
                self._close_batch()
                self._diff_sent_ms = now_ms
                due = None
            else:
                self._send_counted_syncs()
        self._distribute()
        return due

    def _close_batch(self) -> None:
        if not self._open and not self._awaiting_sync:
            return
        if self._open:
            self._open = False
            self._log_changes()
        if self._awaiting_sync:
            self._distribute()
            for watcher in list(self._awaiting_sync.values()):
                self._send_syncs(watcher)

    def _send_counted_syncs(self) -> None:
        """Send the syncs that hold counts only: a later `count` is never older than one."""
        ready = [watcher for watcher in self._awaiting_sync.values() if self.serving(watcher) != "full"]
        if ready:
            self._distribute()
            for watcher in ready:
                self._send_syncs(watcher)

    def _log_changes(self) -> None:
        source = self.source
        diff = source.take_diff()
        if source.crowded != self._crowded:
            self._crowded = source.crowded
            for watcher in self.watchers.values():
                if watcher.mode == "full":
                    watcher.missed = True
                    if watcher.cid not in self._awaiting_sync and watcher.cid not in self.lagging:
                        self._owe(watcher, UNASKED)
        if diff is None:
            return
        if self._crowded:
            self._log.append(Entry(source.count(), FULL | COUNT))
        else:
            self._log.append(Entry(diff, FULL))
            self._log.append(Entry(source.count(), COUNT))

    def _owe(self, watcher: Watcher, sync: OwedSync) -> None:
        if watcher.owed is None:
            self._distribute()
            self._remove_from_state(watcher)
            watcher.owed = []
            self._awaiting_sync[watcher.cid] = watcher
        if sync.request_id is not None or sync not in watcher.owed:
            watcher.owed.append(sync)
        self.hub.activate(self)

    def _send_syncs(self, watcher: Watcher) -> None:
        """Send the syncs that a watcher is owed, then what was held for it; what does not fit waits with it."""
        outbox = watcher.outbox
        while watcher.owed and not outbox.behind:
            self._send_owed(watcher)
        if watcher.owed:
            self._fall_behind(watcher)
        else:
            watcher.owed = None
            del self._awaiting_sync[watcher.cid]
            self._go_live(watcher)

    def _send_owed(self, watcher: Watcher) -> None:
        """Send the next of the syncs that a watcher is owed."""
        if not watcher.owed:
            return
        owed = watcher.owed.pop(0)
        you = watcher.cid if watcher.is_member else None
        sync = self.source.sync(self.serving(watcher), you=you, request_id=owed.request_id)
        if owed.asked:
            watcher.outbox.send_roster(sync)
        else:
            watcher.outbox.send_message(sync)

    def _go_live(self, watcher: Watcher) -> None:
        outbox = watcher.outbox
        watcher.missed = False
        if watcher.held is not None:
            outbox.append_bytes(watcher.drop_held())
        self._groups.setdefault((outbox.encoding, watcher.mode), {})[watcher.cid] = watcher

    def _remove_from_state(self, watcher: Watcher) -> None:
        cid = watcher.cid
        self._awaiting_sync.pop(cid, None)
        self.lagging.pop(cid, None)
        for key in ((watcher.outbox.encoding, mode) for mode in EVERYBODY):
            group = self._groups.get(key)
            if group is not None and group.pop(cid, None) is not None and not group:
                del self._groups[key]

    def serving(self, watcher: Watcher) -> Mode:
        """Return the mode that a watcher is served in: what it asked for, unless the room is crowded."""
        return "count" if watcher.mode == "full" and self._crowded else watcher.mode

    def resume_watcher(self, watcher: Watcher) -> None:
        """Take back a watcher whose connection reads again."""
        if self.lagging.get(watcher.cid) is not watcher:
            return
        if watcher.owed:
            self._distribute()
            del self.lagging[watcher.cid]
            self._awaiting_sync[watcher.cid] = watcher
            self.hub.activate(self)
        elif watcher.missed:
            self._owe(watcher, UNASKED)
        else:
            self._distribute()
            del self.lagging[watcher.cid]
            self._go_live(watcher)

    def _distribute(self) -> None:
        """Give the log to every watcher's outbox, each group's as one piece."""
        log = self._log
        if not log:
            return
        self._log = []
        self._signals.clear()
        events = self.hub.events
        for entry in log:
            events[type(entry.message)] += 1
        for watcher in self.lagging.values():
            self._hold_messages(watcher, log)
        for (encoding, mode), group in list(self._groups.items()):
            entries = [entry for entry in log if mode in entry.audience]
            if entries:
                self._give_group(group, entries, [entry.frame(encoding) for entry in entries])

    def _give_group(self, group: dict[str, Watcher], entries: list[Entry], frames: list[bytes]) -> None:
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        hub = self.hub
        dirty = hub.dirty
        hub.deliveries += len(group) * len(entries)
        fallen_behind: list[Watcher] = []
        for watcher in group.values():  # the hot loop: once for every delivery
            outbox = watcher.outbox
            if outbox.behind:
                fallen_behind.append(watcher)
                continue
            chunks = outbox.chunks
            if not chunks:
                dirty.append(outbox)
            chunks.append(data)
        for cid in {entry.sender for entry in entries if entry.sender in group}:
            sender = group[cid].outbox
            if not sender.behind:
                # Not joined here: with sixty messages of 15 KB each 54 MB would be copied before anything is written.
                own = [frame for entry, frame in zip(entries, frames, strict=True) if entry.sender != cid]
                sender.chunks[-1:] = own or [b""]
        if fallen_behind:
            hub.deliveries -= len(fallen_behind) * len(entries)
            hub.conflations += len(fallen_behind)
        for watcher in fallen_behind:
            self._fall_behind(watcher)
            self._hold_messages(watcher, entries)

    def _fall_behind(self, watcher: Watcher) -> None:
        self._remove_from_state(watcher)
        self.lagging[watcher.cid] = watcher
        outbox = watcher.outbox
        if outbox.lagging is None:
            outbox.lagging = []
        outbox.lagging.append(watcher)

    def _hold_messages(self, watcher: Watcher, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.is_message and entry.sender != watcher.cid:
                frame = entry.frame(watcher.outbox.encoding)
                watcher.hold_message(frame)
            elif entry.is_roster and watcher.mode in entry.audience:
                watcher.missed = True
