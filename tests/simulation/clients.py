"""Clients: browsers with a page open that does what the documented client does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, Protocol

import msgspec

from presence_server.client.message_codec import RosterPage, RosterSync
from presence_server.client.reconnect_backoff import after_close, jittered
from presence_server.client.roster import ClientRoster
from presence_server.client.subscriptions import TRANSIENT
from presence_server.protocol.codec import JSON
from presence_server.protocol.codes import ABNORMAL, GOING_AWAY, REPLACED, Advice, Ending, advice
from presence_server.protocol.messages import (
    ClientMessage,
    Count,
    Diff,
    Error,
    Join,
    Leave,
    Members,
    Mode,
    Ok,
    Page,
    Publish,
    Published,
    Removed,
    Resume,
    SendSignal,
    Signal,
    Stale,
    Sync,
    Update,
    Watch,
    Welcome,
)
from tests.simulation.chronicle import (
    NEVER,
    Chronicle,
    Heard,
    How,
    Life,
    Publication,
    Request,
    Span,
    StateChange,
    Stay,
)
from tests.simulation.nodes import SimulatedNode
from tests.simulation.world import World

WELCOME_MS: Final = 3_000
"""How long a client waits to be welcomed."""
STABLE_MS: Final = 10_000
RETRY_MS: Final = 300
BACKOFF_MAX_S: Final = 3.0
"""A run is a fifth as long as life: nobody stays away for 20 s."""


class Watchful(Protocol):
    """Who looks at every message that reaches a client."""

    def told(self, browser: "Browser", life: Life, message: Any, heard: Heard | None) -> None:
        """Take note of a message."""


@dataclass
class Net:
    """What clients share: the world, the record of what happens, and who looks at it."""

    world: World
    chronicle: Chronicle
    watch: Watchful
    slots: list[SimulatedNode] = field(default_factory=list)
    """Where clients connect to: a node that was killed is replaced in its place."""

    @property
    def now_ms(self) -> int:
        """Virtual time."""
        return self.world.now_ms

    @property
    def chance(self) -> Random:
        """What is drawn from."""
        return self.world.random

    def slot(self, slot: int) -> SimulatedNode:
        """Return the node in a place."""
        return self.slots[slot % len(self.slots)]

    def next_slot(self, slot: int) -> int:
        """Return `slot`, or the next one whose node takes connections; where none does, itself."""
        number = len(self.slots)
        around = [n % number for n in range(slot, slot + number)]
        return next((n for n in around if self.slots[n].alive and self.slots[n].ready), slot % number)


class Line:
    """One connection of a browser, from its end."""

    def __init__(self, net: Net, browser: "Browser", slot: int, token: str | None) -> None:
        self._net = net
        self._browser = browser
        claimed = "" if token is None else browser.cid
        self.life = Life(
            len(net.chronicle.lives), browser.name, browser.user, slot, net.now_ms, claimed=claimed
        )
        net.chronicle.lives.append(self.life)
        self.node = net.slots[slot]
        self.life.was_ready = self.node.alive and self.node.ready
        info: dict[str, object] = {"who": browser.name}
        self.socket = self.node.connect(browser.user, self, resume=token, info=info)

    def send(self, message: ClientMessage) -> None:
        """Send a message, read as the node reads it from bytes."""
        self.socket.send(JSON.decode(JSON.encode(message)))

    def received(self, messages: tuple[Any, ...]) -> None:
        """Take what one write of the node brought."""
        for message in messages:
            self._browser.told(self, plain(message))

    def closed(self, code: int) -> None:
        """Take note of the end."""
        if self.life.ended_ms is None:
            self.life.ended_ms = self._net.now_ms
            self.life.code = code
        self._browser.closed(self, code)

    def hang_up(self, code: int) -> None:
        """Close."""
        self._note_end(code)
        self.socket.close(code)

    def lose(self, unnoticed_ms: int) -> None:
        """Lose the connection: the client knows now, the node after a while."""
        self._note_end(None)
        if unnoticed_ms == 0:
            self.socket.reset()
            return
        self.socket.vanish()
        end = partial(self.socket._end.end, Ending.LOST)
        self._net.world.at(unnoticed_ms, lambda: self.node.later(0, end))

    def _note_end(self, code: int | None) -> None:
        if self.life.over_ms == NEVER:
            self.life.hung_up_ms, self.life.code = self._net.now_ms, code


def plain(message: Any) -> Any:
    """Return a message as a client decodes it: with rosters in place of documents."""
    if isinstance(message, Sync | Page):
        given = {
            n: value for n, value in msgspec.structs.asdict(message).items() if n != "id" or value is not None
        }
        return msgspec.convert(given, RosterSync if isinstance(message, Sync) else RosterPage)
    return message


@dataclass(eq=False)
class Want:
    """A room that the page wants to be in."""

    room: str
    joining: bool
    mode: Mode
    state: dict[str, Any] | None
    acknowledged: dict[str, Any] | None = None
    trying: StateChange | None = None
    """A change that has been asked for and may be refused, because it names a version."""
    roster: ClientRoster = field(init=False)
    stay: Stay | None = None
    stale: bool = False
    kicked: bool = False
    v: int = 0

    def __post_init__(self) -> None:
        self.roster = ClientRoster(self.room)


Reply = Callable[[Any], None]


class Browser:
    """One open page: reconnects, resumes and enters its rooms again by itself."""

    def __init__(self, net: Net, name: str, user: str) -> None:
        self.net = net
        self.name = name
        self.user = user
        self.cid = ""
        self.token: str | None = None
        self.line: Line | None = None
        self.wants: dict[str, Want] = {}
        self.open = False
        """Whether there is a page: it is not closed, and has not been told to stop."""
        self._asked: dict[int, Reply] = {}
        self._attempt = 0

    @property
    def life(self) -> Life | None:
        """The present connection, once welcomed."""
        return self.line.life if self.line is not None and self.line.life.welcomed_ms is not None else None

    # --- what the person does ---

    def start(self, slot: int) -> None:
        """Open the page, unless it is open."""
        if not self.open:
            self.open = True
            self.cid, self.token, self._attempt = "", None, 0
            self.wants.clear()
            self._connect(slot)

    def drop(self, slot: int, unnoticed_ms: int, away_ms: int) -> None:
        """Lose the connection; come back on `slot`."""
        if self.line is not None:
            self._lose(unnoticed_ms)
            delay_s = after_close(ABNORMAL.code, None, self._attempt, self.net.chance.random()) or 0.0
            self._come_back(away_ms + min(delay_s, BACKOFF_MAX_S) * 1_000, slot)

    def leave_page(self, slot: int, back_ms: int | None) -> None:
        """Close the page, or reload it."""
        if not self.open:
            return
        line, self.line = self.line, None
        self._disconnected("closed")
        if line is not None:
            line.hang_up(GOING_AWAY.code)
        if back_ms is None:
            self._stop("closed")
        else:
            self._come_back(back_ms, slot)

    def doze(self, for_ms: int) -> None:
        """Read nothing for a while."""
        line = self.line
        if line is not None and line.life.welcomed_ms is not None and line.socket.is_read:
            line.socket.doze()
            line.life.dozes.append(Span(self.net.now_ms, self.net.now_ms + for_ms))
            self.net.world.at(for_ms, line.socket.wake)

    @property
    def is_dozing(self) -> bool:
        """Whether nothing is read at present. Its node may not read from it either: it enters and leaves no rooms."""
        return self.line is not None and not self.line.socket.is_read

    def duplicate(self, slot: int, other: int, gap_ms: int) -> "Browser | None":
        """Lose the connection, and come back twice with one token; return the second page."""
        if self.life is None or self.token is None:
            return None
        twin = Browser(self.net, f"{self.name}'", self.user)
        twin.open, twin.cid, twin.token = True, self.cid, self.token
        for want in self.wants.values():
            twin.wants[want.room] = Want(want.room, want.joining, want.mode, want.state)
        self._lose(50)
        self._come_back(0, slot)
        twin._come_back(gap_ms, other)
        return twin

    def enter(self, room: str, mode: Mode, *, joining: bool) -> None:
        """Be in a room."""
        if not self.open:
            return
        want = self.wants.get(room)
        if want is None:
            want = self.wants[room] = Want(room, joining, mode, self._new_state() if joining else None)
        else:
            want.joining = want.joining or joining
            want.mode = mode
            if want.stay is not None and mode != "full":
                want.stay.told_all = False
            if joining and (want.state is None or self.net.chance.random() < 0.5):
                want.state = self._new_state()
        self._enter(want)

    def leave(self, room: str) -> None:
        """Leave a room."""
        want = self.wants.pop(room, None)
        if want is not None and want.stay is not None:
            want.stay.end(self.net.now_ms, "left")
            self._ask(Leave(room), f"leave {room}", lambda reply: None)

    def update(self, room: str, guess: str) -> None:
        """Change the own state."""
        want = self.wants.get(room)
        if want is None or not want.joining or want.stay is None or want.stay.entered_ms is None:
            return
        state = self._new_state()
        version: int | None = None
        if guess == "right" and want.v:
            version = want.v
        elif guess == "wrong":
            version = want.v + 7
        else:
            want.state = state
        life = want.stay.life
        change = StateChange(state["n"], life, room, self.net.now_ms)
        self.net.chronicle.changes[change.number] = change
        if version is not None:
            want.trying = change
        self._ask(Update(room, state, version), f"update {room}", partial(self._updated, want, change, state))

    def publish(self, room: str) -> None:
        """Say something."""
        want = self.wants.get(room)
        if want is None or want.stay is None or want.stay.entered_ms is None or self.line is None:
            return
        publication = Publication(
            self.net.chronicle.number(), want.stay.life, self.line.life.node, room, self.net.now_ms
        )
        self.net.chronicle.publications[publication.number] = publication
        self._ask(
            Publish(room, {"n": publication.number}), f"publish {room}", partial(self._published, publication)
        )

    def signal(self, room: str) -> None:
        """Move the cursor."""
        if room in self.wants and self.line is not None and self.wants[room].stay is not None:
            self.line.send(SendSignal(room, "cursor", [self.net.chronicle.number()]))

    def page(self, room: str) -> None:
        """Read the roster by pages."""
        want = self.wants.get(room)
        if want is not None and want.stay is not None and want.stay.entered_ms is not None:
            self._ask(Members(room, limit=2), f"members {room}", partial(self._paged, want))

    # --- the connection ---

    def closed(self, line: Line, code: int) -> None:
        """Do what the documented client does after a close code, or a loss (1006)."""
        self.net.chronicle.note(self.net.now_ms, f"{line.life} closed with {code}")
        if line is not self.line:
            return
        self.line = None
        self._disconnected("lost" if code == ABNORMAL.code else "closed")
        if code == REPLACED.code:
            self.token = None
        if advice(code) in {Advice.STOP, Advice.FIX}:
            self._stop("closed")
            return
        if line.life.welcomed_ms is not None and self.net.now_ms - line.life.welcomed_ms > STABLE_MS:
            self._attempt = 0
        delay_s = after_close(code, None, self._attempt, self.net.chance.random()) or 0.0
        self._attempt += 1
        self._come_back(min(delay_s, BACKOFF_MAX_S) * 1_000, line.life.node + 1)

    def _connect(self, slot: int) -> None:
        """Connect to a node, or the next one that is there, with the token if there is one."""
        if not self.open or self.line is not None:
            return
        self.line = line = Line(self.net, self, self.net.next_slot(slot), self.token)
        self.net.world.at(WELCOME_MS, partial(self._give_up, line))

    def _give_up(self, line: Line) -> None:
        if line is self.line and line.life.welcomed_ms is None:
            self._lose(0)
            self._attempt += 1
            delay_s = min(jittered(self._attempt, self.net.chance.random()), BACKOFF_MAX_S)
            self._come_back(delay_s * 1_000, line.life.node + 1)

    def _come_back(self, delay_ms: float, slot: int) -> None:
        self.net.world.at(delay_ms, partial(self._connect, slot))

    def _stop(self, how: How) -> None:
        self._disconnected(how)
        self.line = None
        self.open = False
        self.wants.clear()

    def _lose(self, unnoticed_ms: int) -> None:
        line, self.line = self.line, None
        self._disconnected("lost")
        if line is not None:
            line.lose(unnoticed_ms)

    def _disconnected(self, how: How) -> None:
        self._asked.clear()
        for want in self.wants.values():
            if want.stay is not None:
                want.stay.end(self.net.now_ms, how)
                want.stay = None

    # --- what is asked ---

    def _enter(self, want: Want) -> None:
        """Send the join or watch of a room, over the connection that there is."""
        line = self.line
        if line is None or line.life.welcomed_ms is None or self.wants.get(want.room) is not want:
            return
        if want.stay is None:
            want.stay = Stay(line.life, want.room, want.joining, want.mode, self.net.now_ms)
            self.net.chronicle.stays.append(want.stay)
        elif want.joining and not want.stay.joining:
            want.stay.end(self.net.now_ms, "left")  # a watcher becomes a member
            want.stay = Stay(line.life, want.room, True, want.mode, self.net.now_ms)
            self.net.chronicle.stays.append(want.stay)
        # A page that may have another state by now does not set the last one again.
        is_trying = want.trying is not None and want.trying.life is line.life
        state = None if is_trying else want.state
        message: ClientMessage = Watch(want.room, want.mode)
        if want.joining:
            message = Join(want.room, state, want.mode)
            if state is not None:
                number = state["n"]
                self.net.chronicle.changes.setdefault(
                    number, StateChange(number, line.life, want.room, self.net.now_ms)
                )
        kind = "join" if want.joining else "watch"
        self._ask(message, f"{kind} {want.room}", partial(self._entered, want, want.stay, state))

    def _ask(self, message: Any, what: str, reply: Reply) -> None:
        line = self.line
        if line is None or line.life.welcomed_ms is None:
            return
        number = self.net.chronicle.number()
        self._asked[number] = reply
        request = line.life.requests[number] = Request(line.life, what, self.net.now_ms)
        self.net.chronicle.requests.append(request)
        line.send(msgspec.structs.replace(message, id=number))

    def _entered(self, want: Want, stay: Stay, state: dict[str, Any] | None, reply: Any) -> None:
        now_ms = self.net.now_ms
        if isinstance(reply, RosterSync):
            if stay.entered_ms is None:
                stay.entered_ms = now_ms
            if state is not None:
                want.acknowledged = state
                change = self.net.chronicle.changes[state["n"]]
                change.ok_ms = change.ok_ms or now_ms
            return
        if stay.entered_ms is not None:
            return  # it is there already, and stays: only what it asked for once more was refused
        stay.end(now_ms, "refused")
        if self.wants.get(want.room) is not want:
            return
        if reply.code in TRANSIENT:
            want.stay = None
            self.net.world.at(RETRY_MS, partial(self._enter, want))
        else:
            del self.wants[want.room]

    def _updated(self, want: Want, change: StateChange, state: dict[str, Any], reply: Any) -> None:
        if want.trying is change:
            want.trying = None
        if isinstance(reply, Ok):
            change.ok_ms, change.v = self.net.now_ms, reply.v if isinstance(reply.v, int) else 0
            want.v = max(want.v, change.v)
            want.acknowledged = state
            if want.state is None or want.state["n"] < state["n"]:
                want.state = state
        elif want.state is state:
            want.state = want.acknowledged

    def _published(self, publication: Publication, reply: Any) -> None:
        if isinstance(reply, Ok):
            publication.ok_ms = self.net.now_ms

    def _paged(self, want: Want, reply: Any) -> None:
        if isinstance(reply, RosterPage) and reply.cursor is not None and self.wants.get(want.room) is want:
            ask = Members(want.room, reply.cursor, 2)
            self._ask(ask, f"members {want.room}", partial(self._paged, want))

    def _new_state(self) -> dict[str, Any]:
        return {"n": self.net.chronicle.number()}

    # --- what is told ---

    def told(self, line: Line, message: Any) -> None:
        """Take a message from the server."""
        if line is not self.line:
            return
        life = line.life
        heard: Heard | None = None
        match message:
            case Welcome():
                self._welcomed(line, message)
            case Resume():
                self.token = message.resume
            case RosterSync() | RosterPage() | Diff() | Count() | Published() | Signal() | Stale():
                heard = self._told_of_room(line, message)
            case Removed():
                self._removed(message.room)
        if heard is not None and heard.events:
            self.net.chronicle.heard.append(heard)
        self.net.watch.told(self, life, message, heard)
        number = getattr(message, "id", None)
        if isinstance(number, int):
            request = life.requests.pop(number, None)
            if request is not None:
                request.answered_ms = self.net.now_ms
                request.refused = message.code if isinstance(message, Error) else ""
            reply = self._asked.pop(number, None)
            if reply is not None:
                reply(message)

    def _welcomed(self, line: Line, welcome: Welcome) -> None:
        life = line.life
        life.welcomed_ms, life.cid, life.resumed = self.net.now_ms, welcome.cid, welcome.resumed
        self.cid, self.token = welcome.cid, welcome.resume
        self.net.chronicle.note(self.net.now_ms, f"{life} welcomed{' again' if welcome.resumed else ''}")
        for want in list(self.wants.values()):
            if want.kicked:  # the connection was lost before the room's last message came
                del self.wants[want.room]
            else:
                want.v = 0
                self._enter(want)

    def _told_of_room(self, line: Line, message: Any) -> Heard | None:
        want = self.wants.get(message.room or "")
        if want is None:
            if isinstance(message, RosterSync):
                line.send(Leave(message.room))
            return None
        events: list[Any] = []
        match message:
            case RosterSync():
                want.kicked, want.stale = False, message.stale
                events = list(want.roster.sync(message))
                if message.cursor is not None:
                    raise AssertionError("rooms here are smaller than a sync")
                self._own(want)
            case RosterPage():
                events = want.roster.page(message.members, last=False)
            case Diff():
                events = want.roster.diff(message)
                want.kicked = want.kicked or any(
                    leave.cid == self.cid and leave.reason == "kicked" for leave in message.leaves
                )
                self._own(want)
            case Count():
                want.roster.recount(message)
            case Stale():
                want.stale = message.stale
        return Heard(self.net.now_ms, line.life, want.room, events, type(message).__name__, want.stale)

    def _own(self, want: Want) -> None:
        own = want.roster.members.get(self.cid)
        if own is not None:
            want.v = max(want.v, own.v)

    def _removed(self, room: str) -> None:
        want = self.wants.pop(room, None)
        if want is not None and want.stay is not None:
            want.stay.end(self.net.now_ms, "removed")
