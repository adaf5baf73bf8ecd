import pytest

from tests.support.node import Node


@pytest.fixture(autouse=True)
def _executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start nodes here as users do."""
    monkeypatch.setattr(Node, "forked", False)
