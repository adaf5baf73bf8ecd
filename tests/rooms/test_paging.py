"""Pages and diffs, merged in order of arrival, give the roster."""

from presence_server.config.settings import LimitsSettings
from presence_server.protocol.messages import Diff, Join, Leave, Members, Page, Sync, Update, Watch
from tests.support.recording import members_in
from tests.support.world import Client, World


def merged(client: Client) -> set[str]:
    """Merge everything that a client has been told, as PROTOCOL says, and return who is there."""
    there: set[str] = set()
    for message in client.take():
        if isinstance(message, Sync):
            there = set(members_in(message))
        elif isinstance(message, Page):
            there |= set(members_in(message))
        elif isinstance(message, Diff):
            there |= {member.cid for member in message.joins}
            there -= {left.cid for left in message.leaves}
    return there


def test_a_large_room_comes_by_pages() -> None:
    world = World(limits=LimitsSettings(outbox_soft_bytes=262_144))
    cids = set(world.populate("lobby", 900))
    ann = world.connect("ann")
    sync = ann.ask(Join("lobby"))
    assert isinstance(sync, Sync)
    assert (len(members_in(sync)), sync.count) == (500, 901)
    seen, cursor = set(members_in(sync)), sync.cursor
    pages = 0
    while cursor is not None:
        page = ann.ask(Members("lobby", cursor=cursor, limit=150))
        assert isinstance(page, Page)
        seen |= set(members_in(page))
        cursor = page.cursor
        pages += 1
    assert seen == cids | {ann.cid}
    assert pages == 3


def test_who_is_only_in_a_page_because_its_join_was_not_told_yet_is_no_ghost() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.send(Watch("lobby"))
    world.settle()
    bob.send(Join("lobby"))
    ann.send(Members("lobby"))
    bob.send(Leave("lobby"))
    assert merged(ann) == set()


def test_who_is_in_a_page_while_a_window_is_open_is_no_ghost() -> None:
    world = World()
    bots = set(world.populate("lobby", 150))
    ann, bob, cem = world.connect("ann"), world.connect("bob"), world.connect("cem")
    ann.send(Watch("lobby"))
    world.pass_ms(1_000)
    cem.send(Join("lobby"))
    world.settle()
    bob.send(Join("lobby"))
    world.pass_ms(10)
    ann.send(Members("lobby"))
    world.pass_ms(10)
    bob.send(Leave("lobby"))
    world.pass_ms(1_000)
    assert merged(ann) == bots | {cem.cid}


def test_an_update_told_after_a_newer_page_does_not_rewind_for_long() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("lobby"))
    bob.send(Update("lobby", {"x": 1}))
    ann.send(Members("lobby"))
    bob.send(Update("lobby", {"x": 2}))
    (diff,) = [message for message in ann.take_only(Diff) if message.updates]
    assert [(update.v, update.state) for update in diff.updates] == [(3, {"x": 2})]
