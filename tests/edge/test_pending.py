"""Which socket goes where there are too many."""

from hypothesis import given
from hypothesis import strategies as st

from presence_server.edge.pending import EXEMPT, Pending

PER_KEY, TOTAL = 3, 7


class Recorded:
    """A socket that knows whether it was dropped."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.dropped = False

    def abort(self) -> None:
        self.dropped = True


def come(pending: Pending, *keys: str) -> list[Recorded]:
    sockets = [Recorded(key) for key in keys]
    for socket in sockets:
        pending.add_socket(socket, socket.key)
    return sockets


def test_the_oldest_of_its_own_address_goes() -> None:
    pending = Pending(PER_KEY, TOTAL)
    sockets = come(pending, "b", *"aaaa")
    assert [socket.dropped for socket in sockets] == [False, True, False, False, False]
    assert (len(pending), pending.dropped) == (4, 1)


def test_where_all_are_too_many_the_oldest_of_the_fullest_address_goes() -> None:
    pending = Pending(PER_KEY, TOTAL)
    sockets = come(pending, *"abbcccdd")
    assert [socket.key for socket in sockets if socket.dropped] == ["c"]
    assert sockets[3].dropped


def test_a_proxy_has_no_bound_of_its_own_but_counts() -> None:
    pending = Pending(PER_KEY, TOTAL)
    sockets = come(pending, *[EXEMPT] * TOTAL)
    assert not any(socket.dropped for socket in sockets)
    (late,) = come(pending, "a")
    assert [sockets[0].dropped, late.dropped] == [True, False]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_bounds_hold_whatever_comes_and_goes(steps: list[tuple[str, bool]]) -> None:
    pending = Pending(PER_KEY, TOTAL)
    here: list[Recorded] = []
    for key, goes in steps:
        if goes and here:
            pending.remove_socket(here.pop(0))
        else:
            here += come(pending, key)
        here = [socket for socket in here if not socket.dropped]
        assert len(pending) == len(here) <= TOTAL
        assert all(sum(one.key == other for one in here) <= PER_KEY for other in "abcd")
        assert all(socket in pending for socket in here)
