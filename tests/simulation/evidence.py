"""The evidence that invariants judge: the messages of clients, a run that is over, a moment of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from presence_server.client.message_codec import RosterPage, RosterSync
from presence_server.protocol.messages import Count, Diff, Published
from tests.simulation.chronicle import Chronicle, Heard, Life
from tests.simulation.clients import Browser
from tests.simulation.nodes import SimulatedNode
from tests.simulation.truth import Truth
from tests.simulation.world import World

Broken = Iterator[str]
"""Observations that break a promise."""


class Ears:
    """Looks at every message that reaches a client, and notes what cannot be seen later."""

    def __init__(self, chronicle: Chronicle) -> None:
        self.chronicle = chronicle
        self.miscounted: list[str] = []
        self.strangers: list[tuple[Heard, str]] = []
        """Messages of members that the hearer's roster did not have."""
        self.repeated: list[str] = []
        self.echoed: list[str] = []
        """Messages that came back to their sender."""
        self.overtaken: list[tuple[Heard, int, int]] = []
        """Messages that came after one that their sender sent later, by number."""
        self._last: dict[tuple[Life, Life, str], int] = {}

    def told(self, browser: Browser, life: Life, message: Any, heard: Heard | None) -> None:
        """Take note of a message."""
        if heard is None:
            self._note_for_user(life, message)
            return
        want = browser.wants[heard.room]
        roster = want.roster
        match message:
            case RosterSync() | Diff() | Count():
                if roster.mode == "full" and roster.complete:
                    told, folded = (roster.count, roster.user_count), (len(roster.members), len(roster.users))
                    if told != folded:
                        self.miscounted.append(
                            f"{life} at {heard.at_ms} in {heard.room}: told {told}, has {folded} after {message}"
                        )
                if isinstance(message, Diff):
                    self._check_diff(life, message, heard.at_ms)
            case RosterPage():
                if heard.events:
                    self.miscounted.append(f"{life} at {heard.at_ms}: a page with {heard.events}")
            case Published(data={"n": int(number)}):
                self._note_message(life, heard, number, browser)

    def _note_message(self, life: Life, heard: Heard, number: int, browser: Browser) -> None:
        publication = self.chronicle.publications[number]
        publication.got.append((heard.at_ms, life))
        author, roster = publication.life, browser.wants[heard.room].roster
        if author is None:
            return
        self._check_author(life, author, heard, number)
        if roster.mode == "full" and author.cid not in roster.members:
            self.strangers.append((heard, author.cid))

    def _check_author(self, life: Life, author: Life, heard: Heard, number: int) -> None:
        if life is author:
            self.echoed.append(f"{life} got its own message {number} in {heard.room} at {heard.at_ms}")
        last = self._last.get((author, life, heard.room), 0)
        if number < last:
            self.overtaken.append((heard, number, last))
        self._last[author, life, heard.room] = max(number, last)

    def _note_for_user(self, life: Life, message: Any) -> None:
        match message:
            case Published(room=None, data={"n": int(number)}):
                self.chronicle.publications[number].got.append(
                    (self.chronicle.publications[number].sent_ms, life)
                )

    def _check_diff(self, life: Life, diff: Diff, at_ms: int) -> None:
        cids = (
            [m.cid for m in diff.joins] + [u.cid for u in diff.updates] + [gone.cid for gone in diff.leaves]
        )
        twice = [cid for cid, times in Counter(cids).items() if times > 1]
        if twice:
            self.repeated.append(f"{life} at {at_ms} in {diff.room}: {twice} twice in one diff")


@dataclass
class Run:
    """A run that is over."""

    chronicle: Chronicle
    ears: Ears
    truth: Truth = field(init=False)

    def __post_init__(self) -> None:
        self.truth = Truth(self.chronicle)


@dataclass
class Scene:
    """A moment at which everything should be exact."""

    world: World
    browsers: list[Browser]
    chronicle: Chronicle
    api: dict[tuple[str, str], Any]
    """What each node answered to backends, by node and question."""

    @property
    def nodes(self) -> list[SimulatedNode]:
        """Return the nodes that run."""
        return self.world.alive

    @property
    def rooms(self) -> list[str]:
        """Return the rooms that some page wants to be in."""
        return sorted({room for browser in self.browsers for room in browser.wants})

    def members(self, room: str) -> dict[str, Browser]:
        """Return who is in a room, by cid: whose page wants to be, and was told that it is."""
        return {b.cid: b for b in self.browsers if room in b.wants and _is_member(b, room)}


def _is_member(browser: Browser, room: str) -> bool:
    stay = browser.wants[room].stay
    return browser.life is not None and stay is not None and stay.joining and stay.entered_ms is not None
