"""What a boundary does about a callback that fails."""

import io
import json
from operator import attrgetter

import anyio
import msgspec
import pytest

from presence_server import faults, logs
from presence_server.clock import SystemClock
from presence_server.config.settings import PresenceSettings, Settings
from presence_server.core import NodeCore
from presence_server.faults import contain
from tests.support.waiting import until

SWEPT = {
    "directory": "sweep_sessions",
    "hub": "close_stuck",
    "backend": "sweep",
    "rooms.views": "read_behind_and_drop_idle",
    "limiter": "roll",
}
"""What a sweep calls, by the part of the core that it is a method of."""


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is logged; nothing has been before."""
    monkeypatch.setattr(faults, "_quiet_until_s", {})
    stream = io.StringIO()
    logs.configure(stream)
    return stream


def fail(what: object) -> None:
    raise KeyError(what)


def test_a_fault_is_logged_with_its_traceback_and_counted(stream: io.StringIO) -> None:
    before = faults.counts["pipeline"]
    contain("pipeline", fail, "x")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert "KeyError: 'x'" in line["exception"]
    assert "boundary: pipeline" in line["event"]
    assert faults.counts["pipeline"] == before + 1


def test_faults_that_repeat_are_counted_and_not_each_logged(stream: io.StringIO) -> None:
    before = faults.counts["pipeline"]
    for _ in range(100):
        contain("pipeline", fail, "x")
    contain("subscriber", fail, "y")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert [("pipeline" in event, "subscriber" in event) for event in events] == [
        (True, False),
        (False, True),
    ]
    assert faults.counts["pipeline"] == before + 100


def test_what_is_no_fault_of_a_callback_passes() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contain("pipeline", stop)


@pytest.mark.anyio
@pytest.mark.parametrize("broken", SWEPT)
async def test_a_sweep_that_fails_keeps_no_other_from_being_swept(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = NodeCore(Settings(), SystemClock(), sheds_signal=lambda: False)
    swept: list[str] = []
    for name, verb in SWEPT.items():

        def sweep(*_: object, name: str = name) -> None:
            swept.append(name)
            if name == broken:
                raise KeyError(name)

        monkeypatch.setattr(attrgetter(name)(core), verb, sweep)
    before = faults.counts["sweep"]
    core.sweep_node(0)
    assert swept == list(SWEPT)
    assert faults.counts["sweep"] == before + 1


@pytest.mark.anyio
async def test_a_heartbeat_that_fails_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    presence = msgspec.structs.replace(PresenceSettings(), heartbeat_ms=100)
    settings = msgspec.structs.replace(Settings(), presence=presence)
    core = NodeCore(settings, SystemClock(), sheds_signal=lambda: False)
    beats: list[int] = []

    def beat(part: int, parts: int) -> None:
        beats.append(part)
        raise KeyError(parts)

    monkeypatch.setattr(core.rooms.memberships, "beat", beat)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(core.renew_members)
        await until(lambda: len(beats) > 2)
        tasks.cancel_scope.cancel()
    assert beats[:3] == [0, 1, 2]
