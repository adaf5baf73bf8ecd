import pytest

from tests.rooms.following import Following
from tests.support.operations import enter


@pytest.fixture
def unread() -> Following:
    following = Following()
    following.room.do(enter("a"), enter("b"))
    following.lose()
    return following


@pytest.fixture
def live(unread: Following) -> Following:
    unread.feed.load()
    unread.answer()
    return unread
