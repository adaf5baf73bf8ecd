"""The parts of the shared store, each with a connectivity of its own.

A standalone server is one part. Of a Cluster each slot is one: slots of a server share its fate, until one of them
moves to another. A room is in one part; so is a connection's claim, and so are the ended tokens of a user.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from presence_server.cluster.connectivity import Connectivity, State
from presence_server.redis_io.scripts import SLOTS, slot_of_tag

if TYPE_CHECKING:
    from presence_server.cluster.link import Link


class Part:
    """A part of the store, and the link to the server that has it.

    `lost_ms` is when contact with it ended, on the node's clock, and `retry_ms` when to try again what its server
    refused though the link is well; 0: nothing to try.
    """

    __slots__ = ("connectivity", "link", "lost_ms", "retry_ms")

    def __init__(self, link: "Link", connectivity: Connectivity) -> None:
        self.link = link
        self.connectivity = connectivity
        self.lost_ms = 0
        self.retry_ms = 0

    @property
    def is_isolated(self) -> bool:
        """Whether it is out of reach."""
        return self.connectivity.state is State.ISOLATED


class Concerned:
    """Some parts, and which rooms and cids are in them."""

    def __init__(self, parts: Iterable[Part], part_of: Callable[[str], Part], *, whole: bool) -> None:
        self.parts = dict.fromkeys(parts)
        self.whole = whole
        """Whether they are all that a server has."""
        self._part_of = part_of

    def __call__(self, tag: str) -> bool:
        """Tell whether a room, a cid or a user is in one of them."""
        return self._part_of(tag) in self.parts


class Parts:
    """Finds the part of a room, a cid or a user: of their hash tag."""

    def __init__(self) -> None:
        self.unsettled: dict[Part, None] = {}
        """Those of which something may follow when time passes."""

    def of(self, tag: str) -> Part:
        """Return the part that a tag is in."""
        raise NotImplementedError

    def with_link(self, link: "Link") -> list[Part]:
        """Return every part that a link's server has."""
        raise NotImplementedError

    def note(self, part: Part) -> None:
        """Note a part whose state may have changed."""
        if part.connectivity.is_settled:
            self.unsettled.pop(part, None)
        else:
            self.unsettled[part] = None


class OnePart(Parts):
    """A standalone server."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self.note(part)

    def of(self, tag: str) -> Part:
        """Return the one."""
        del tag
        return self._part

    def with_link(self, link: "Link") -> list[Part]:
        """Return the one."""
        del link
        return [self._part]


class SlotParts(Parts):
    """The slots of a Cluster, each a part from when it is first asked for."""

    def __init__(self, link_of: Callable[[int], "Link"]) -> None:
        super().__init__()
        self._link_of = link_of
        self.by_slot: dict[int, Part] = {}
        """At most 16,384."""

    def of(self, tag: str) -> Part:
        """Return the part of a tag's slot."""
        slot = slot_of_tag(tag)
        return self.by_slot.get(slot) or self._new(slot)

    def _new(self, slot: int) -> Part:
        assert 0 <= slot < SLOTS  # noqa: S101 - a slot is a checksum modulo that
        link = self._link_of(slot)
        part = self.by_slot[slot] = Part(link, link.part.connectivity.copy())
        part.lost_ms = link.part.lost_ms
        self.note(part)
        return part

    def with_link(self, link: "Link") -> list[Part]:
        """Return the parts of a server, with the one that stands for slots that nobody has asked for."""
        return [link.part, *(part for part in self.by_slot.values() if part.link is link)]
