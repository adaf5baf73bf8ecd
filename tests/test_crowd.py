"""A random crowd: whoever applies what it is sent has the server's roster, and nothing is left in the end.

Each example is a list of steps, plain data, so that it shrinks. Clients are members or watchers in every
mode, on both encodings; they stall and read on, vanish, leave cleanly, resume once or twice with one token,
and ask for pages. One room turns to numbers above two members, one has so many bots that it batches.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given

from presence_server.config.settings import PresenceSettings, RoomSettings
from presence_server.protocol.codec import JSON, MSGPACK
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import (
    Bye,
    ClientMessage,
    Count,
    Diff,
    Error,
    Join,
    Leave,
    Member,
    Members,
    Mode,
    Ok,
    Page,
    Publish,
    Published,
    Resume,
    ServerMessage,
    Sync,
    Update,
    Watch,
)
from tests.support.properties import examples
from tests.support.recording import members_in
from tests.support.world import Client, World

PEOPLE = 5
QUIET, CROWDED, BATCHED = ROOMS = ("quiet", "crowded", "batched")
RULES = [RoomSettings(pattern=CROWDED, full_max=2), RoomSettings(pattern="*")]
BOTS = 120
SOFT_BYTES = 300
PRESENCE = PresenceSettings(ttl_ms=30_000, heartbeat_ms=10_000, grace_clean_ms=3_000, grace_lost_ms=15_000)

VERBS = (
    "join", "join", "join", "watch", "leave", "update", "update", "update", "publish", "publish", "page",
    "stall", "read", "lose", "close", "resume", "resume", "resume twice", "tick", "tick", "wait",
)  # fmt: skip
MODES: Final[tuple[Mode | None, ...]] = ("full", "count", "none", None)
WAITS_MS = (1, 30, 60, 1_000, 2_900, 3_300, 14_900, 15_400, 40_000)


class Step(NamedTuple):
    """One thing that happens: `verb`, to or by person `who`, in `room`; `n` chooses between kinds of it."""

    verb: str
    who: int
    room: str
    n: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(VERBS),
        st.integers(0, PEOPLE - 1),
        st.sampled_from(ROOMS),
        st.integers(0, 11),
    ),
    min_size=10,
    max_size=70,
)


@dataclass
class Copy:
    """One room as a client has it, by the rules of the wire alone."""

    mode: str
    seq: int
    count: int
    users: int
    members: dict[str, Member]
    cursor: str | None
    paged: bool = False

    @property
    def complete(self) -> bool:
        """Whether the client has the whole roster and has merged no page that may be newer than its diffs."""
        return self.mode == "full" and self.cursor is None and not self.paged

    def apply(self, diff: Diff) -> None:
        """Apply a diff, and object to one that cannot be right."""
        named = [member.cid for member in diff.joins] + [update.cid for update in diff.updates]
        named += [leave.cid for leave in diff.leaves]
        assert len(named) == len(set(named)) > 0, "a cid twice, or nothing at all"
        for member in diff.joins:
            assert not self.complete or self.members.get(member.cid) != member, "a join of who is there"
            self.members[member.cid] = member
        for update in diff.updates:
            before = self.members.get(update.cid)
            assert before is not None or not self.complete, "an update of nobody"
            if before is not None:
                assert self.paged or update.v > before.v, "an update to a version that is not newer"
                self.members[update.cid] = Member(
                    before.cid, before.user, before.info, update.state, update.v, before.at
                )
        for leave in diff.leaves:
            gone = self.members.pop(leave.cid, None)
            assert gone is not None or not self.complete, "a leave of nobody"
        self.seq, self.count, self.users = diff.seq, diff.count, diff.users
        if self.complete:
            users = {member.user for member in self.members.values()}
            assert (len(self.members), len(users)) == (self.count, self.users), "numbers unlike the roster"


@dataclass
class Person:
    """Somebody with one connection at a time, and what it has made of what it was sent."""

    name: str
    client: Client
    token: str
    copies: dict[str, Copy] = field(default_factory=dict)
    heard: Counter[int] = field(default_factory=Counter)
    last_of: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    leaving: dict[int, str] = field(default_factory=dict)

    def say(self, message: ClientMessage) -> None:
        """Send a request with a fresh id."""
        self.asked += 1
        message.id = self.asked
        self.client.send(message)

    def listen(self) -> None:
        """Take in what has arrived."""
        for message in self.client.wire.take():
            self._take(message)

    def _take(self, message: ServerMessage) -> None:  # noqa: C901 - one case a message
        request_id = getattr(message, "id", None)
        if request_id is not None:
            self.answered[request_id] += 1
        match message:
            case Sync(room=room):
                members = members_in(message)
                self.copies[room] = Copy(
                    message.mode, message.seq, message.count, message.users, members, message.cursor
                )
            case Ok() if message.id in self.leaving:
                del self.copies[self.leaving[message.id]]
            case Page(room=room):
                if room in self.copies and self.copies[room].mode == "full":
                    self.copies[room].members |= members_in(message)
                    self.copies[room].paged = True
            case Diff(room=room):
                self.copies[room].apply(message)
            case Count(room=room):
                assert self.copies[room].mode == "count"
                self.copies[room].count, self.copies[room].users = message.count, message.users
            case Published():
                self._hear(message)
            case Resume():
                self.token = message.resume
            case Bye() | Error() | Ok():
                pass

    def _hear(self, message: Published) -> None:
        number: Any = message.data
        self.heard[number] += 1
        assert self.heard[number] == 1, "a message twice"
        assert message.cid is not None
        assert message.cid != self.client.cid, "its own message"
        assert number > self.last_of.get(message.cid, -1), "messages of one sender out of order"
        self.last_of[message.cid] = number


class Run:
    """One example."""

    def __init__(self) -> None:
        self.world = World(rooms=RULES, presence=PRESENCE)
        self.people: list[Person] = []
        for n in range(PEOPLE):
            client = self._connect(n, None)
            self.people.append(Person(f"user-{n % 3}", client, client.resume))
        self.bots = self.world.populate(BATCHED, BOTS)
        self.said = 0

    def _connect(self, n: int, token: str | None) -> Client:
        codec = MSGPACK if n % 2 else JSON
        return self.world.connect(f"user-{n % 3}", resume=token, codec=codec, soft_bytes=SOFT_BYTES)

    def do(self, step: Step) -> None:
        """Let one step happen, and everybody take in what has arrived."""
        person = self.people[step.who]
        if step.verb == "tick":
            self.world.tick()
        elif step.verb == "wait":
            self.world.pass_ms(WAITS_MS[step.n % len(WAITS_MS)])
        elif step.verb in {"resume", "resume twice"}:
            self._resume(step, person)
        elif person.client.is_open:
            self._act(step, person)
        for each in self.people:
            each.listen()

    def _act(self, step: Step, person: Person) -> None:  # noqa: C901 - one case a verb
        room, n = step.room, step.n
        match step.verb:
            case "join":
                state = {"n": n % 3} if n % 4 else None
                person.say(Join(room, state, MODES[n % 4]))
            case "watch":
                person.say(Watch(room, MODES[n % 4]))
            case "leave":
                person.say(Leave(room))
                person.leaving[person.asked] = room
            case "update":
                person.say(Update(room, {"n": n}, n if n > 8 else None))
            case "publish":
                self.said += 1
                person.say(Publish(room, self.said))
            case "page":
                person.say(Members(room, limit=(1, 3, 500, 1_000)[n % 4]))
            case "stall":
                person.client.wire.stall()
            case "read":
                person.client.wire.read_on()
            case "lose":
                person.client.drop(Ending.LOST)
            case "close":
                person.client.drop(Ending.CLEAN)

    def _resume(self, step: Step, person: Person) -> None:
        """Come back, with the token or as somebody new; twice: with one token on two connections at once."""
        person.listen()
        times = 2 if step.verb == "resume twice" else 1
        token = None if step.n == 0 else person.token
        before = person.client
        clients = [self._connect(step.who, token) for _ in range(times)]
        assert clients[0].cid == (before.cid if token else clients[0].cid)
        if token:
            assert not before.is_open, "an earlier life goes on"
        else:
            before.drop(Ending.LOST)
        for other in clients[:-1]:
            assert other.closed_with == (4010 if token else None)
            other.drop(Ending.LOST)
        rooms = list(person.copies)
        person.client = clients[-1]
        person.token = person.client.resume
        person.copies.clear()
        person.heard.clear()
        person.last_of.clear()
        person.asked = 0
        person.answered.clear()
        person.leaving.clear()
        for room in rooms:
            person.say(
                Join(room) if room in before.session.participant.memberships or step.n % 2 else Watch(room)
            )

    def quiesce(self) -> None:
        """Let everybody read and everything due happen."""
        for person in self.people:
            person.client.wire.read_on()
        self.world.pass_ms(2_000)
        for person in self.people:
            person.listen()

    def check(self) -> None:
        """Compare what everybody has with what the server has."""
        for person in self.people:
            if not person.client.is_open:
                continue
            assert all(person.answered[n] == 1 for n in range(1, person.asked + 1)), "not one reply a request"
            assert person.copies.keys() == person.client.session.participant.memberships.keys()
            for room, copy in person.copies.items():
                roster = self.world.roster(room)
                users = {member.user for member in roster.values()}
                crowded = self.world.rooms.views._views[room].crowded
                wanted = person.client.session.participant.memberships[room].watcher.mode
                assert copy.mode == ("count" if wanted == "full" and crowded else wanted)
                if copy.mode != "none":
                    assert (copy.count, copy.users) == (len(roster), len(users)), room
                if copy.mode == "full":
                    assert copy.members == roster, room

    def end(self) -> None:
        """Let everybody go; nothing may be left."""
        for person in self.people:
            person.client.drop(Ending.CLEAN)
        self.world.remove(BATCHED, self.bots)
        self.world.outlive_everything()
        assert self.world.leftovers() == {}


@pytest.mark.early
@given(STEPS)
@examples(500)
def test_whoever_applies_what_it_is_sent_has_the_servers_roster(steps: list[Step]) -> None:
    run = Run()
    for step in steps:
        run.do(step)
    run.quiesce()
    run.check()
    run.end()
