"""Adaptive batching: for how long a room's roster changes are gathered before they are sent.

One diff costs one write for every watcher, so the more there are, the fewer diffs a second there may be. A
quiet room's is sent at once, a busy one's at most once a window. Load raises latency a little, not queues a lot.

Changes of a room whose process was restarted are gathered for longer: its members come back one after the other, and
each of them knew the others before.
"""

from bisect import bisect_right
from typing import Final

WINDOWS: Final = ((0, 0), (100, 50), (1_000, 250), (5_000, 1_000))
"""Pairs: from this number of members on, so many milliseconds lie between two diffs."""
RETURN_QUIET_MS: Final = 500
"""Watchers of a room to which members return are sent a sync when none has returned for so long, ms."""
RETURN_MS: Final = 3_000
"""Watchers are sent the sync no later than this after the first return, ms."""
_SIZES: Final = [members for members, _ in WINDOWS]


def window_ms(members: int) -> int:
    """Return the least time between two diffs of a room with so many members, in milliseconds."""
    return WINDOWS[bisect_right(_SIZES, members) - 1][1]


def due_ms(now_ms: int, sent_ms: int, members: int) -> int:
    """Return when a change noticed now is sent, if the last diff was sent at `sent_ms`."""
    return max(now_ms, sent_ms + window_ms(members))
