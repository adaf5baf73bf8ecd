"""The folder that the supervisor and its workers have for themselves."""

from pathlib import Path

import pytest

from presence_server.errors import ListenError
from presence_server.workers.supervisor import private_folder


def test_a_relative_place_becomes_absolute_since_the_store_works_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with private_folder("here") as folder:
        assert folder.parent == tmp_path / "here"
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "here").iterdir()) == []


def test_a_place_that_is_gone_since_it_was_checked_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=f"^server.socket_dir: {tmp_path}/none: No such file"):  # noqa: SIM117 - too long in one
        with private_folder(str(tmp_path / "none")):
            pass
