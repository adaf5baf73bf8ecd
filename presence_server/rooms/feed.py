"""Keeps a view up to date with its room: deltas in order, a snapshot after a gap, and those who wait."""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from presence_server.presence.roster import Delta, Snapshot

BEHIND_MS: Final = 1_000
"""A feed that has known of something newer for this long reads a snapshot: a last delta was lost."""
BUFFERED_MAX: Final = 1_000
"""Deltas kept while a snapshot is read; beyond them it is read again."""
HELD_MAX: Final = 100
"""Messages kept as well because their senders are not known yet; beyond them all are delivered as they are."""

Reached = Callable[[], None]
Deliver = Callable[[], None]


class Position(NamedTuple):
    """A moment of a room: `seq` counts its changes, and `generation` is new whenever the room is made anew."""

    generation: int
    seq: int


class Held(NamedTuple):
    """A message of `cid` that waits for the deltas before it: the join of its sender may be among them."""

    cid: str
    deliver: Deliver


class Waiting(NamedTuple):
    """A callback that waits for a position, or for a snapshot that is asked for after the first `loads`."""

    position: Position | None
    loads: int
    reached: Reached


class Checkpoint(NamedTuple):
    """The position of a view in the shared store when it stopped following it: snapshots are compared with that.

    `whole` says that it showed all of the room there. `trusted` says that the store has been the same one since.
    """

    position: Position
    whole: bool
    trusted: bool


class Following(NamedTuple):
    """Deltas move the view."""


class Reading(NamedTuple):
    """A snapshot is being read; deltas wait for it."""

    since: Checkpoint


class Isolated(NamedTuple):
    """Deltas of this node's memory move the view."""

    since: Checkpoint


class Resuming(NamedTuple):
    """The store is to say whether anything has moved since the checkpoint; deltas wait for that."""

    since: Checkpoint


State: TypeAlias = Following | Reading | Isolated | Resuming
FOLLOWING: Final = Following()


class Feed:
    """The position of a view: generation and seq.

    `read(done)` reads a snapshot; where it fails, `done` is never called, and `isolate` is before the next
    attempt. `apply(delta)` and `compare(snapshot)` move the view, which shows a member where `is_known(cid)`.
    """

    __slots__ = (
        "_apply",
        "_back_since_ms",
        "_buffer",
        "_compare",
        "_heard",
        "_held",
        "_is_known",
        "_known",
        "_known_since_ms",
        "_loads",
        "_read",
        "_state",
        "_waiting",
        "generation",
        "live",
        "seq",
    )

    def __init__(
        self,
        read: Callable[[Callable[[Snapshot], None]], None],
        apply: Callable[[Delta], None],
        compare: Callable[[Snapshot], None],
        is_known: Callable[[str], bool],
    ) -> None:
        self.generation = 0
        self.seq = 0
        self.live = False
        """Whether a snapshot has been read since the channel was subscribed to."""
        self._state: State = FOLLOWING
        self._read = read
        self._apply = apply
        self._compare = compare
        self._is_known = is_known
        self._loads = 0
        self._buffer: list[Delta | Held] = []
        """What has come and is to be taken when the view is ready for it."""
        self._held = 0
        """How many messages are in the buffer."""
        self._heard: Delta | None = None
        """The last delta that changed something, whether it was of use here or not."""
        self._known: Position | None = None
        self._known_since_ms = 0
        self._back_since_ms: int | None = None
        """Since when the store says that the room is further back than the view, and no delta says otherwise."""
        self._waiting: list[Waiting] = []

    @property
    def loading(self) -> bool:
        """Whether deltas wait for the store to say where the room is."""
        return isinstance(self._state, Reading | Resuming)

    @property
    def is_isolated(self) -> bool:
        """Whether deltas of this node's memory move the view."""
        return isinstance(self._state, Isolated)

    def _since(self) -> Checkpoint:
        """Return what the next snapshot is compared with."""
        if isinstance(self._state, Following):
            return Checkpoint(Position(self.generation, self.seq), self.live, trusted=True)
        return self._state.since

    def load(self, *, trusted: bool = True) -> None:
        """Read the room from the store; what differs is news. `trusted`: see `Checkpoint`."""
        since = self._since()
        whole = since.whole and not isinstance(self._state, Following)  # it has missed something
        self._state = Reading(Checkpoint(since.position, whole, since.trusted and trusted))
        self._loads += 1
        self._back_since_ms = None
        loads = self._loads
        self._read(lambda snapshot: self._loaded(loads, snapshot))

    def isolate(self, generation: int) -> None:
        """Go on in memory, under another generation: what was being read will not come, and what is here is all."""
        since = self._since()
        # What happened here in an earlier isolation is not in the store.
        unmoved = isinstance(self._state, Following) or self.seq == 0
        self._state = Isolated(since._replace(whole=since.whole and unmoved))
        self._loads += 1
        self.live = True
        self.generation, self.seq = generation, 0
        self._buffer.clear()
        self._held = 0  # nobody here will hear who their senders are
        self._known = None
        self._back_since_ms = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.reached()

    def rejoin(self, *, trusted: bool) -> None:
        """Come back to the store: go on from the checkpoint if nothing has moved since, or read the room.

        `trusted` says that the store is the one of before the isolation. It must be asked something about the room now:
        `note_position` gets what it says.
        """
        since = self._since()
        isolated = not isinstance(self._state, Following)
        if isolated and since.whole and since.trusted and trusted and self.seq == 0:
            self._state = Resuming(since)
        else:
            self.load(trusted=trusted)

    def continues(self, snapshot: Snapshot) -> bool:
        """Tell whether a snapshot is a later moment of the room in the view. Members that it lacks have left."""
        since = self._since()
        here = since.position
        return since.trusted and snapshot.generation == here.generation and snapshot.seq >= here.seq

    def receive_delta(self, delta: Delta) -> None:
        """Take a delta from the channel.

        One that goes back says that the store has lost what it had announced, which it cannot say any more once the
        room has as many changes again.
        """
        if self._goes_back(delta):
            self._drop_deltas()
            self.load(trusted=False)
        if delta.changes:
            self._heard = delta
        self._follow_or_buffer(delta)

    def receive_message(self, cid: str, deliver: Deliver) -> None:
        """Deliver a message, after the join of its sender if that may be on its way."""
        if not self.live or not self.loading or self._is_known(cid):
            deliver()
        elif self._held < HELD_MAX:
            self._buffer.append(Held(cid, deliver))
            self._held += 1
        else:
            held = [each for each in self._buffer if isinstance(each, Held)]
            self._buffer = [each for each in self._buffer if isinstance(each, Delta)]
            self._held = 0
            for each in held:
                each.deliver()
            deliver()

    def _drop_deltas(self) -> None:
        """Forget the deltas that wait: a snapshot will say what they have said."""
        self._buffer = [each for each in self._buffer if isinstance(each, Held)]

    def _goes_back(self, delta: Delta) -> bool:
        """Tell whether a room announces a moment that it has announced before, with something else in it."""
        heard = self._heard
        if heard is None or delta.generation != heard.generation or delta.generation != self.generation:
            return False
        return delta.seq < heard.seq or (delta.seq == heard.seq and delta.changes and delta != heard)

    def _follow_or_buffer(self, delta: Delta) -> None:
        if self.loading:
            self._buffer.append(delta)
            if len(self._buffer) - self._held > BUFFERED_MAX:
                self._drop_deltas()
                self.load()
        elif delta.changes and delta.generation == self.generation and delta.seq == self.seq + 1:
            self._move(delta)
            self._reach()
        elif delta.generation != self.generation or delta.seq > self.seq:
            self.load()  # also where nothing changes but the time: it has the seq of a step that was missed

    def when(self, generation: int, seq: int, reached: Reached) -> None:
        """Call `reached` as soon as the view shows this moment of the room or a later one."""
        if self.live and not self.loading and generation == self.generation and seq <= self.seq:
            reached()
            return
        self._waiting.append(Waiting(Position(generation, seq), self._loads, reached))

    def when_live(self, reached: Reached) -> None:
        """Call `reached` as soon as the view shows the room."""
        if self.live and not self.loading:
            reached()
        else:
            self._waiting.append(Waiting(None, -1, reached))

    def note_position(self, generation: int, seq: int, now_ms: int) -> None:
        """Note that the store has said where the room is."""
        if isinstance(self._state, Resuming):
            self._resume(self._state.since.position, Position(generation, seq))
        elif (generation, seq) == (self.generation, self.seq):
            self._known = None
            self._back_since_ms = None
            if not self.loading and any(self._is_lost(each) for each in self._waiting):
                self.load()
        else:
            if self._known is None:
                self._known_since_ms = now_ms
            self._known = Position(generation, seq)
            self._note_back(now_ms)

    def _note_back(self, now_ms: int) -> None:
        """Read the room where the store has gone back; answers that deltas overtook say so, too, but not for long."""
        if self.loading or self._known is None or self._known.generation != self.generation:
            return
        if self._known.seq > self.seq:
            self._back_since_ms = None
        elif self._back_since_ms is None:
            self._back_since_ms = now_ms
        elif now_ms - self._back_since_ms >= BEHIND_MS:
            self.load()

    def _is_lost(self, waiting: Waiting) -> bool:
        """Tell whether somebody waits for a moment of a room that the store has lost: no delta will bring it."""
        return waiting.position is not None and waiting.position.generation != self.generation

    @property
    def behind(self) -> bool:
        """Whether the store has said that the room is elsewhere than this view."""
        return self._known is not None

    def read_if_behind(self, now_ms: int) -> None:
        """Read a snapshot if something newer has been known of for too long."""
        if self._known is None or self.loading:
            return
        generation, seq = self._known
        if generation == self.generation and seq <= self.seq:
            self._known = None
        elif now_ms - self._known_since_ms >= BEHIND_MS:
            self._known = None
            self.load()

    def _resume(self, before: Position, position: Position) -> None:
        """Go on after an outage in which nothing happened, or read what did."""
        if position != before:
            self.load()
            return
        self._state = FOLLOWING
        self.generation, self.seq = position
        self._catch_up()

    def _loaded(self, loads: int, snapshot: Snapshot) -> None:
        if loads != self._loads:
            return
        self.live = True
        self._compare(snapshot)
        self._state = FOLLOWING
        self.generation, self.seq = snapshot.generation, snapshot.seq
        self._catch_up()

    def _catch_up(self) -> None:
        """Take the deltas and messages that came while the view was not ready for them."""
        buffered, self._buffer, self._held = self._buffer, [], 0
        for each in buffered:
            if isinstance(each, Delta):
                self._follow_or_buffer(each)
            else:
                self.receive_message(each.cid, each.deliver)
        self._reach()

    def _move(self, delta: Delta) -> None:
        self._apply(delta)
        self._back_since_ms = None
        self.generation, self.seq = delta.generation, delta.seq

    def _reach(self) -> None:
        """Call those whose moment has come: by seq, or by a snapshot that was asked for after they came."""
        if not self._waiting or self.loading:
            return
        still: list[Waiting] = []
        due: list[Reached] = []
        for each in self._waiting:
            position = each.position
            here = (
                position is not None and position.generation == self.generation and position.seq <= self.seq
            )
            if here or each.loads < self._loads:
                due.append(each.reached)
            else:
                still.append(each)
        self._waiting = still
        for reached in due:
            reached()
