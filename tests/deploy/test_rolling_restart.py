"""All nodes replaced one by one behind HAProxy, with a room full of clients, whom nobody in it sees go."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from presence_server.edge.listener import PACE_MS
from tests.deploy.site import Site, site
from tests.support import signing
from tests.support.effort import effort
from tests.support.guests import DEADLINE_S, Chatter, Guest, guests
from tests.support.node import Node
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

GUESTS = effort(100, 200)
SPEAKERS = 10
EVERY_S = 0.2
ARGS = ("--server.drain_delay_ms", "2000", "--presence.grace_lost_ms", "60000")
"""On a machine that has much else to do clients may be away for longer than the default of 15 s."""


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # all clients are in this process


@pytest.mark.early
async def test_nobody_sees_the_nodes_being_replaced(tmp_path: Path) -> None:
    users = [f"guest-{i}" for i in range(GUESTS)]
    async with site("haproxy-plain", tmp_path, *ARGS, nodes=3, cuttable=False) as behind:
        await behind.in_use(*behind.nodes)
        async with (
            guests(behind.front.url, users, token=lambda user: signing.token(sub=user)) as everybody,
            anyio.create_task_group() as tasks,
        ):
            chatter = Chatter(everybody[:: GUESTS // SPEAKERS], EVERY_S)
            tasks.start_soon(chatter.run)
            for node in behind.nodes:
                await replace(behind, node, everybody, chatter)
            tasks.cancel_scope.cancel()
            for guest in everybody:
                assert guest.lost_s, "nobody was spared"
                assert all(guest.resumed)
                assert guest.client.cid == guest.cid
                assert guest.changes == []
                assert len(guest.room.members) == GUESTS


async def replace(behind: Site, node: Node, everybody: Sequence[Guest], chatter: Chatter) -> None:
    """Replace one node, and see what it was like for those who were on it and for the others."""
    before = {guest: len(guest.lost_s) for guest in everybody}
    moving = [guest for guest in everybody if guest.client.node == node.id]
    first = max(chatter.sent, default=0)
    node.terminate()
    assert await node.wait() == 0
    await until(lambda: all(guest.is_back for guest in everybody), lambda: away(everybody), DEADLINE_S)
    last = max(chatter.sent, default=0)
    stayed = {guest for guest in everybody if len(guest.lost_s) == before[guest]}
    assert set(everybody) - stayed == set(moving)
    lost_s = [guest.lost_s[-1] for guest in moving]
    assert max(lost_s) - min(lost_s) > len(moving) * PACE_MS / 2_000, "they are told one after the other"
    sent = {n: speaker for n, speaker in chatter.sent.items() if first < n <= last and speaker in stayed}
    assert sent

    def missing() -> dict[str, list[int]]:
        """Return which messages have not come, by user."""
        unheard = {guest: sent.keys() - guest.heard for guest in stayed}
        return {
            guest.client.user: [n for n in numbers if sent[n] is not guest]
            for guest, numbers in unheard.items()
            if any(sent[n] is not guest for n in numbers)
        }

    await until(lambda: not missing(), missing, DEADLINE_S)
    await node.start()
    await behind.in_use(node)


def away(everybody: Sequence[Guest]) -> object:
    return [(guest.client.user, guest.lost_s, guest.back_s) for guest in everybody if not guest.is_back]
