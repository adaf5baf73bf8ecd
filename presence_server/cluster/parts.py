"""The parts of the shared store, each with a connectivity of its own.

A standalone server is one part. Of a Cluster each slot is one: the slots of a server lose and regain contact together,
until one of them moves to another server. A room is in one part; so is a connection's claim, and so are the ended
tokens of a user.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from presence_server.cluster.connectivity import Connectivity, State
from presence_server.redis_io.scripts import SLOTS, slot_of_tag

if TYPE_CHECKING:
    from presence_server.cluster.link import Link


class Part:
    """A part of the store, and the link to the server that has it.

    `lost_ms` is when contact with it ended, on the node's clock. `retry_ms` is when a slot that its server refused is
    tried again, although the link itself has contact; 0: there is none to try.
    """

    __slots__ = ("connectivity", "link", "lost_ms", "retry_ms")

    def __init__(self, link: "Link", connectivity: Connectivity) -> None:
        self.link = link
        self.connectivity = connectivity
        self.lost_ms = 0
        self.retry_ms = 0

    @property
    def is_isolated(self) -> bool:
        """Whether the part is out of reach."""
        return self.connectivity.state is State.ISOLATED


class Concerned:
    """The parts that an effect is about; called with a hash tag, whether it is in one of them."""

    def __init__(self, parts: Iterable[Part], part_of: Callable[[str], Part], *, whole: bool) -> None:
        self.parts = dict.fromkeys(parts)
        self.whole = whole
        """Whether they are all parts of a server."""
        self._part_of = part_of

    def __call__(self, tag: str) -> bool:
        """Tell whether a room, a cid or a user is in one of them."""
        return self._part_of(tag) in self.parts


def drop_concerned(by_tag: dict[str, Any], concerned: Callable[[str], bool]) -> None:
    """Remove the rooms, or what else has a hash tag, that are concerned."""
    for tag in [tag for tag in by_tag if concerned(tag)]:
        del by_tag[tag]


class Parts(ABC):
    """Finds the part that a hash tag (a room, a cid or the tag of a user) is in."""

    def __init__(self) -> None:
        self.unresolved: dict[Part, None] = {}
        """Parts in a rejoin, or with members that are provisional: `Rejoin.check` looks at these alone."""

    @abstractmethod
    def of(self, tag: str) -> Part:
        """Return the part that a tag is in."""

    @abstractmethod
    def with_link(self, link: "Link") -> list[Part]:
        """Return every part of a link's server."""

    def note(self, part: Part) -> None:
        """Keep `unresolved` right after the state of a part may have changed."""
        if part.connectivity.is_resolved:
            self.unresolved.pop(part, None)
        else:
            self.unresolved[part] = None


class OnePart(Parts):
    """The parts of a standalone server: one."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self.note(part)

    def of(self, tag: str) -> Part:
        """Return the one part."""
        del tag
        return self._part

    def with_link(self, link: "Link") -> list[Part]:
        """Return the one part."""
        del link
        return [self._part]


class SlotParts(Parts):
    """The slots of a Cluster: each becomes a part when it is first asked for."""

    def __init__(self, link_of: Callable[[int], "Link"]) -> None:
        super().__init__()
        self._link_of = link_of
        self.by_slot: dict[int, Part] = {}
        """The parts that there are, at most one for each of the 16,384 slots."""

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
        """Return the parts of a server, the first of them for its slots that nobody has asked for."""
        return [link.part, *(part for part in self.by_slot.values() if part.link is link)]
