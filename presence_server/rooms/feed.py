"""How a view keeps up with its room: deltas in order, a snapshot after a gap, and who waits for what."""

from collections.abc import Callable
from typing import Final

from presence_server.presence.roster import Delta, Snapshot

BEHIND_MS: Final = 1_000
"""A feed that has known of something newer for this long reads a snapshot: a last delta was lost."""
BUFFERED_MAX: Final = 1_000
"""Deltas kept while a snapshot is read; beyond them it is read again."""

Reached = Callable[[], None]


class Feed:
    """Where a view is, in generation and seq.

    `read(done)` reads a snapshot; where it fails, `done` is never called, and `interrupt` is before the next
    attempt. `apply(delta)` and `compare(snapshot)` move the view.
    """

    __slots__ = (
        "_apply",
        "_buffer",
        "_compare",
        "_known",
        "_known_since_ms",
        "_loads",
        "_read",
        "_rejoining",
        "_shore",
        "_waiting",
        "generation",
        "live",
        "loading",
        "seq",
    )

    def __init__(
        self,
        read: Callable[[Callable[[Snapshot], None]], None],
        apply: Callable[[Delta], None],
        compare: Callable[[Snapshot], None],
    ) -> None:
        self.generation = 0
        self.seq = 0
        self.live = False
        """Whether a snapshot has been read since the channel was subscribed to."""
        self.loading = False
        self._read = read
        self._apply = apply
        self._compare = compare
        self._loads = 0
        self._buffer: list[Delta] = []
        self._known: tuple[int, int] | None = None
        self._known_since_ms = 0
        self._shore: tuple[int, int] | None = None
        self._rejoining = False
        self._waiting: list[tuple[int, int, int, Reached]] = []

    def load(self) -> None:
        """Read the room from the store; what differs is news."""
        self._loads += 1
        self.loading = True
        self._rejoining = False
        loads = self._loads
        self._read(lambda snapshot: self._loaded(loads, snapshot))

    def rejoin(self) -> None:
        """Come back to the store: go on from before `interrupt` if nothing has moved since, or read it.

        The store must be asked something about the room now: `known` gets what it says.
        """
        if self._shore is None or self.seq > 0:
            self.load()
        else:
            self.loading = self._rejoining = True

    def interrupt(self, generation: int, seq: int) -> None:
        """Go on without the store: what was being read will not come, and what is here is what there is."""
        self._shore = (self.generation, self.seq) if self.live and not self.loading else None
        self._rejoining = False
        self._loads += 1
        self.loading = False
        self.live = True
        self.generation, self.seq = generation, seq
        self._buffer.clear()
        self._known = None
        waiting, self._waiting = self._waiting, []
        for _, _, _, reached in waiting:
            reached()

    def receive(self, delta: Delta) -> None:
        """Take a delta from the channel."""
        if self.loading:
            self._buffer.append(delta)
            if len(self._buffer) > BUFFERED_MAX:
                self._buffer.clear()
                self.load()
        elif delta.generation == self.generation and delta.seq == self.seq + 1:
            self._move(delta)
            self._reach()
        elif delta.generation != self.generation or delta.seq > self.seq:
            self.load()

    def when(self, generation: int, seq: int, reached: Reached) -> None:
        """Call `reached` as soon as the view shows this moment of the room or a later one."""
        if self.live and not self.loading and generation == self.generation and seq <= self.seq:
            reached()
            return
        self._waiting.append((generation, seq, self._loads, reached))

    def when_live(self, reached: Reached) -> None:
        """Call `reached` as soon as the view shows the room."""
        if self.live and not self.loading:
            reached()
        else:
            self._waiting.append((0, 0, -1, reached))

    def known(self, generation: int, seq: int, now_ms: int) -> None:
        """Note that the store has said where the room is."""
        if self._rejoining:
            self._land(generation, seq)
        elif (generation, seq) == (self.generation, self.seq):
            self._known = None
        else:
            if self._known is None:
                self._known_since_ms = now_ms
            self._known = (generation, seq)

    @property
    def behind(self) -> bool:
        """Whether the store has said that the room is elsewhere than this view."""
        return self._known is not None

    def check(self, now_ms: int) -> None:
        """Read a snapshot if something newer has been known of for too long."""
        if self._known is None or self.loading:
            return
        generation, seq = self._known
        if generation == self.generation and seq <= self.seq:
            self._known = None
        elif now_ms - self._known_since_ms >= BEHIND_MS:
            self._known = None
            self.load()

    def _land(self, generation: int, seq: int) -> None:
        """Go on after an outage in which nothing happened, or read what did."""
        if (generation, seq) != self._shore:
            self.load()
            return
        self._rejoining = False
        self.generation, self.seq = generation, seq
        self._catch_up()

    def _loaded(self, loads: int, snapshot: Snapshot) -> None:
        if loads != self._loads:
            return
        self.live = True
        self._compare(snapshot)
        self.generation, self.seq = snapshot.generation, snapshot.seq
        self._catch_up()

    def _catch_up(self) -> None:
        """Take the deltas that came while the view was not ready for them."""
        self.loading = False
        buffered, self._buffer = self._buffer, []
        for delta in buffered:
            self.receive(delta)
        self._reach()

    def _move(self, delta: Delta) -> None:
        self._apply(delta)
        self.generation, self.seq = delta.generation, delta.seq

    def _reach(self) -> None:
        """Call those whose moment has come: by seq, or by a snapshot that was asked for after they came."""
        if not self._waiting or self.loading:
            return
        still: list[tuple[int, int, int, Reached]] = []
        due: list[Reached] = []
        for generation, seq, loads, reached in self._waiting:
            here = generation == self.generation and seq <= self.seq
            if here or loads < self._loads:
                due.append(reached)
            else:
                still.append((generation, seq, loads, reached))
        self._waiting = still
        for reached in due:
            reached()
