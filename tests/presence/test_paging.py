"""Pages of a roster that goes on changing: nobody is missed, and each is bounded."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from presence_server.presence.paging import CHANGES_MAX, CidIndex, Page, page
from presence_server.presence.roster import ChangeBatch, Delta, Record, Roster, json_bytes
from presence_server.protocol.messages import Member, MemberLeave
from tests.support.properties import examples

CIDS = st.text("abcdef", min_size=1, max_size=3)
BYTES_MAX = 1_000_000


def record(cid: str, state: bytes = b"{}") -> Record:
    return Record(Member(cid, "ann", msgspec.Raw(b"{}"), msgspec.Raw(state), 1, 1), 1, "n1")


class Room:
    """A roster, what of it clients have been told, and pages of that."""

    def __init__(self, *cids: str) -> None:
        self.roster, self.batch, self.order = Roster(), ChangeBatch(), CidIndex()
        self.apply(joins=cids)
        self.tell()

    def apply(self, joins: tuple[str, ...] = (), leaves: tuple[str, ...] = ()) -> None:
        records = tuple(record(cid) for cid in joins)
        delta = Delta(1, 1, 0, 0, records, (), tuple(MemberLeave(cid, "ann", "left") for cid in leaves))
        self.batch.note_delta(self.roster, delta)
        self.roster.apply(delta)

    def tell(self) -> None:
        self.order.follow(self.batch.take_net_change(self.roster))

    def page(self, cursor: str | None, limit: int, bytes_max: int = BYTES_MAX) -> Page:
        following = self.order.after(cursor, lambda: self.batch.records_before(self.roster))
        told = (self.batch.record_before(self.roster, cid) for cid in following)
        return page((record.member for record in told if record is not None), limit, bytes_max)


def test_a_small_roster_is_one_page() -> None:
    members, cursor = Room("c", "a", "b").page(None, 3)
    assert [member.cid for member in members] == ["a", "b", "c"]
    assert cursor is None


def test_a_page_behind_the_last_member_is_empty() -> None:
    assert Room("a").page("zzz", 10) == ([], None)


def test_a_page_has_no_more_bytes_than_it_may_but_one_member_at_least() -> None:
    room = Room(*"abcd")
    size = json_bytes(record("a").member)
    for members, bytes_max in ((1, 1), (1, size), (1, 2 * size - 1), (2, 2 * size), (3, 3 * size)):
        found, cursor = room.page(None, 10, bytes_max)
        assert [member.cid for member in found] == list("abcd"[:members])
        assert cursor == found[-1].cid
    assert room.page(None, 10, 4 * size)[1] is None


@given(name=st.text(max_size=128), info=st.text(max_size=50), state=st.text(max_size=50))
def test_no_entry_is_longer_than_it_is_taken_to_be(name: str, info: str, state: str) -> None:
    user = "".join(char for char in name if char.isprintable())
    documents = [msgspec.Raw(msgspec.json.encode({"a": text})) for text in (info, state)]
    member = Member("c" * 16, user, documents[0], documents[1], 2**53, 2**53)
    assert len(msgspec.json.encode(member)) < json_bytes(member)


@given(
    there=st.sets(CIDS, max_size=30),
    others=st.lists(st.tuples(CIDS, st.booleans()), max_size=30),
    limit=st.integers(1, 7),
)
@examples(300)
def test_pages_never_miss_who_is_there_throughout(
    there: set[str], others: list[tuple[str, bool]], limit: int
) -> None:
    room = Room(*sorted(there))
    coming_and_going = [(cid, told) for cid, told in others if cid not in there]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        told = set(room.batch.records_before(room.roster))
        members, cursor = room.page(cursor, limit)
        assert len(members) <= limit
        assert {member.cid for member in members} <= told
        seen += [member.cid for member in members]
        if cursor is None:
            break
        if coming_and_going:
            cid, tell = coming_and_going.pop()
            if cid in room.roster.records:
                room.apply(leaves=(cid,))
            else:
                room.apply(joins=(cid,))
            if tell:
                room.tell()
    assert there <= set(seen)
    assert all(seen.count(cid) == 1 for cid in there)


def test_a_change_of_everything_is_followed_too() -> None:
    room = Room("a")
    assert room.page(None, 1)[0]
    cids = tuple(f"{number:05}" for number in range(CHANGES_MAX + 1))
    room.apply(joins=cids, leaves=("a",))
    room.tell()
    assert [member.cid for member in room.page(None, len(cids))[0]] == list(cids)
