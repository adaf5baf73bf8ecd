"""The boards on which nodes publish reports of themselves."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from presence_server.bus.board import Board, MemoryBoard, RedisBoard
from tests.support.asking import Asking, asking
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

KEPT_MS = 20_000


class Told(msgspec.Struct, frozen=True):
    """A report."""

    number: int


@pytest.fixture
async def asked(shared_server: RedisServer) -> AsyncIterator[Asking]:
    async with asking(shared_server) as asked:
        yield asked


def board_of(asked: Asking, node: str, kept_ms: int = KEPT_MS, kind: type = Told) -> RedisBoard[Told]:
    return RedisBoard(asked.queries, kind, node, key_of=lambda name: f"ps:board:{name}", kept_ms=kept_ms)


@pytest.fixture(params=["memory", "redis"])
def board(request: pytest.FixtureRequest, asked: Asking) -> Board[Told]:
    """A board of the node n1, which is alone."""
    return MemoryBoard() if request.param == "memory" else board_of(asked, "n1")


async def test_a_board_keeps_what_its_node_published_last(board: Board[Told]) -> None:
    assert board.own is None
    for number in (1, 2):
        board.publish(Told(number))
        assert board.own == Told(number)
    board.publish(None)
    assert board.own is None


async def test_a_node_is_none_of_the_others(board: Board[Told]) -> None:
    board.publish(Told(1))
    assert await board.others(["n1"]) == []
    assert await board.others([]) == []
    assert await board.others(["gone"]) == []


async def test_the_others_read_what_was_published_last(asked: Asking) -> None:
    one, two, three = (board_of(asked, node) for node in ("n1", "n2", "n3"))
    for number in (1, 2):
        two.publish(Told(number))
    three.publish(Told(3))
    read = await eventually(lambda: one.others(["n1", "n2", "n3"]), lambda found: len(found) == 2)
    assert read == [Told(2), Told(3)]
    assert await one.others(["n3"]) == [Told(3)]


async def test_a_report_ends_and_one_that_cannot_be_read_is_left_out(asked: Asking) -> None:
    one, brief, odd = board_of(asked, "n1"), board_of(asked, "n2", kept_ms=1), board_of(asked, "n3")
    brief.publish(Told(1))
    odd.publish(Told("x"))  # type: ignore[arg-type]  # of a node of another version
    board_of(asked, "n4").publish(Told(4))
    names = ["n2", "n3", "n4"]
    assert await eventually(lambda: one.others(names), lambda found: found == [Told(4)]) == [Told(4)]
    odd.publish(Told(3))
    assert await eventually(lambda: one.others(names), lambda found: len(found) == 2) == [Told(3), Told(4)]
