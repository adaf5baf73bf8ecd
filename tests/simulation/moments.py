"""What is promised of a moment: of any, of one when it is quiet again, and of the one after everybody has left."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from presence_server.cluster.store import ClusterStore
from presence_server.presence.deadlines import STEP_BACK_MS
from tests.simulation.evidence import Broken, Scene
from tests.simulation.leftovers import leftovers
from tests.simulation.nodes import SimulatedNode
from tests.simulation.plan import PRESENCE, ROOMS

FENCE_MS: Final = 2 * PRESENCE.ttl_ms


# --- at any moment ---


def bounded(scene: Scene) -> Broken:
    """What is kept of who has left is bounded: in a room for two TTLs, by a node without contact of its own members."""
    for room, state in scene.world.store.rooms().items():
        ends = [fence.until_ms for fence in state._fences.values()]
        if ends and max(ends) - min(ends) > FENCE_MS + STEP_BACK_MS:
            yield f"{room} has a fence from {max(ends) - min(ends)} ms before its last one"
    for node in scene.nodes:
        store = node.core.backend.store if node.ready else None
        if isinstance(store, ClusterStore) and len(store._departed) > len(store._maybe_shared):
            yield f"{node.name} keeps {len(store._departed)} departures of {len(store._maybe_shared)} members"


# --- when it is quiet again ---


def rosters_exact(scene: Scene) -> Broken:
    """Every roster, count and user list is exactly who is there."""
    for room in ROOMS:
        members = scene.members(room)
        numbers = (len(members), len({browser.user for browser in members.values()}))
        for browser in scene.browsers:
            want = browser.wants.get(room)
            if want is None or browser.life is None or want.stay is None:
                continue
            roster = want.roster
            if roster.mode == "full" and set(roster.members) != set(members):
                ghosts, missing = set(roster.members) - set(members), set(members) - set(roster.members)
                yield f"{browser.life} in {room}: ghosts {_names(ghosts)}, missing {_names(missing)}"
            if roster.mode != "none" and (roster.count, roster.user_count) != numbers:
                yield f"{browser.life} in {room}: told {(roster.count, roster.user_count)}, there are {numbers}"


def _names(cids: set[str]) -> list[str]:
    return sorted(cid[:6] for cid in cids)


def api_exact(scene: Scene) -> Broken:
    """Every answer to a backend is exactly who is there, on every node."""
    for (name, question), answer in scene.api.items():
        kind, _, what = question.partition(" ")
        if isinstance(answer, Exception):
            yield f"{name} does not answer {question}: {answer!r}"
            continue
        if kind == "room":
            expected: Any = (len(scene.members(what)), len({b.user for b in scene.members(what).values()}))
        elif kind == "members":
            expected = sorted(scene.members(what))
        elif kind == "rooms":
            expected = [room for room in scene.rooms if scene.members(room)]
        else:
            expected = sorted(b.cid for b in scene.browsers if b.user == what and b.life is not None)
        if answer != expected:
            yield f"{name} answers {question} with {answer}, which is {expected}"


def updates_kept(scene: Scene) -> Broken:
    """An update that was answered with `ok` is in the roster, or a later one is."""
    for room in ROOMS:
        for cid, browser in scene.members(room).items():
            stay = browser.wants[room].stay
            changes = [
                c for c in scene.chronicle.changes.values() if stay is not None and c.life is stay.life
            ]
            done = [
                c
                for c in changes
                if c.room == room and c.ok_ms is not None and c.sent_ms >= (stay.asked_ms if stay else 0)
            ]
            acknowledged = browser.wants[room].acknowledged or {"n": 0}
            last = max((c.number for c in done), default=acknowledged["n"])
            v = max((c.v for c in done), default=0)
            for other in scene.browsers:
                roster = other.wants[room].roster if room in other.wants else None
                member = None if roster is None else roster.members.get(cid)
                if member is not None and (member.v < v or member.state.get("n", 0) < last):
                    yield (
                        f"{browser.life} in {room} was told ok for state {last} at v {v}; "
                        f"{other.life} has {member.state} at v {member.v}"
                    )


def nothing_waits(scene: Scene) -> Broken:
    """Nothing is stale, provisional or waiting, and every request has been answered."""
    for browser in scene.browsers:
        life = browser.life
        if life is not None and life.requests:
            yield f"{life} waits for an answer to {[request.what for request in life.requests.values()]}"
        if browser.open and life is None:
            yield f"{browser.name} could not come back"
        for want in browser.wants.values():
            if life is not None and want.stale:
                yield f"{life} in {want.room} is told that it is stale"
            if life is not None and (want.stay is None or want.stay.entered_ms is None):
                yield f"{life} is not in {want.room}, though it asked"
    for node in scene.nodes:
        yield from (f"{node.name}: {what}" for what in _waiting(node))


def _waiting(node: SimulatedNode) -> Iterator[str]:
    core = node.core
    if core.backend.is_isolated():
        yield "has no contact"
    if core.backend.is_stale(""):
        yield "rooms are stale"
    for view in core.rooms.views:
        feed = view.feed
        if view.stale or feed.loading or feed.behind or feed._waiting or view._provisional:
            yield (
                f"{view.room}: stale {view.stale}, loading {feed.loading}, behind {feed.behind}, "
                f"waiting {len(feed._waiting)}, provisional {len(view._provisional)}"
            )
        for membership in view.own.connected():
            if membership.is_entering:
                yield f"{view.room}: {membership.cid[:6]} waits for its join"


def one_connection(scene: Scene) -> Broken:
    """A cid has one live connection, and its client has the other end of it."""
    open_cids = Counter(browser.cid for browser in scene.browsers if browser.life is not None)
    served = Counter(end.session.cid for node in scene.nodes for end in node.ends if end.session is not None)
    if open_cids != served:
        yield f"only clients have {dict(open_cids - served)}, only nodes have {dict(served - open_cids)}"
    twice = {cid: times for cid, times in (open_cids + Counter()).items() if times > 1}
    if twice:
        yield f"clients have more than one live connection of {twice}"


# --- once everybody has left ---


def nothing_left(scene: Scene) -> Broken:
    """Every map is empty, and every key of the store has a TTL."""
    lives = scene.chronicle.lives
    names = frozenset({*ROOMS, *(life.cid for life in lives), *(life.user for life in lives)} - {""})
    for node in scene.nodes:
        left = leftovers(node.core, names)
        if left:
            yield f"{node.name} still knows somebody: {left}"
    lasting = [key for key, ttl_ms in scene.world.store.keys().items() if ttl_ms is None]
    if lasting:
        yield f"the store has keys for ever: {lasting}"
