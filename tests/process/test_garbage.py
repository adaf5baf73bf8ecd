"""What the garbage collector looks at, and what connections leave to it."""

import gc
from collections.abc import Iterator

import pytest

from presence_server.config.settings import Settings
from presence_server.garbage import FEW_CONNECTIONS, THRESHOLDS, WHOLE_EVERY_MS, GarbageCollector
from tests.support.lab import laboratory
from tests.support.rawclient import RawClient, speaking

pytestmark = pytest.mark.anyio


@pytest.fixture
def collector() -> Iterator[GarbageCollector]:
    before = gc.get_threshold()
    collector = GarbageCollector()
    collector.start()
    yield collector
    collector.stop()
    gc.set_threshold(*before)
    gc.unfreeze()


def collections(collector: GarbageCollector, generation: int) -> int:
    return sum(collector.seconds[generation].counts)


def test_what_is_there_is_frozen_and_pauses_are_noted(collector: GarbageCollector) -> None:
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > 1_000
    for generation in range(3):
        before = collections(collector, generation)
        gc.collect(generation)
        assert collections(collector, generation) == before + 1
    assert collector.longest_s > 0


def test_all_objects_are_looked_at_now_and_then_while_there_are_few_connections(
    collector: GarbageCollector,
) -> None:
    for now_ms in (0, WHOLE_EVERY_MS - 1):
        collector.collect_if_due(0, now_ms)
    collector.collect_if_due(FEW_CONNECTIONS + 1, WHOLE_EVERY_MS)
    assert collections(collector, 2) == 0
    collector.collect_if_due(FEW_CONNECTIONS, WHOLE_EVERY_MS)
    assert collections(collector, 2) == 1
    collector.collect_if_due(0, WHOLE_EVERY_MS + 1)
    assert collections(collector, 2) == 1


@pytest.mark.parametrize("how", ["closed", "lost", "page", "silent", "malformed", "refused"])
async def test_a_connection_leaves_no_cycle(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    async def come(port: int) -> None:
        if how in {"closed", "lost"}:
            async with speaking(port) as client:
                await client.request(t="ping", id=1)
                if how == "closed":
                    await client.close()
            return
        async with RawClient(port) as client:
            if how == "page":
                await client.ask("/healthz", base={})
            elif how == "malformed":
                await client.send(b"\r\n\r\n")
                await client.respond()
            elif how == "refused":
                await client.ask("/ws?user=")

    async with laboratory(Settings(), monkeypatch) as lab:
        await come(lab.port)
        await lab.gone()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await come(lab.port)
            await lab.gone()
            await lab.settle()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [type(found).__name__ for found in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not {"Connection", "ServerProtocol", "Session", "Opening"} & set(left), left
