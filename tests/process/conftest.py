import pytest

from tests.support.node import Node


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start nodes as users do, by `python -m presence_server`: it takes ten times as long as a fork."""
    monkeypatch.setattr(Node, "forked", False)
