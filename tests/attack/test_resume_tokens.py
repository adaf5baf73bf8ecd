"""Resume tokens: they must not lift the limit on connections for who does not resume."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking
from tests.support.signing import SECRET, token

pytestmark = pytest.mark.anyio

CONNECTS = 5
FLAGS = ("--throttle.connect", f"{CONNECTS}/600s", "--throttle.resume", "1000/600s")
RESUMES = 10


async def statuses(node: Node, path: str, times: int) -> Counter[int]:
    counted: Counter[int] = Counter()
    for _ in range(times):
        async with RawClient(node.port) as client:
            counted[(await client.ask(path)).status] += 1
    return counted


async def test_a_token_of_somebody_else_counts_as_a_connect(tmp_path: Path) -> None:
    async with Node(tmp_path, *FLAGS) as node:
        async with speaking(node.port, "/ws?user=ann") as ann:
            stolen = ann.welcome["resume"]
        path = f"/ws?user=mallory&resume={stolen}"
        assert await statuses(node, path, 20) == {101: CONNECTS - 1, 429: 20 - CONNECTS + 1}


async def test_a_token_that_is_used_again_and_again_lifts_the_limit_ten_times_a_minute(
    tmp_path: Path,
) -> None:
    async with Node(tmp_path, *FLAGS) as node:
        async with speaking(node.port, "/ws?user=ann") as ann:
            cid, used = ann.cid, ann.welcome["resume"]
        path = f"/ws?user=ann&resume={used}"
        for _ in range(RESUMES):
            async with speaking(node.port, path) as ann:
                assert (ann.welcome["resumed"], ann.cid) == (True, cid)
        async with speaking(node.port, path) as ann:
            assert (ann.welcome["resumed"], ann.cid == cid) == (False, False)
        assert await statuses(node, path, 20) == {101: CONNECTS - 2, 429: 20 - CONNECTS + 2}


async def test_bad_credentials_with_a_good_token_count_as_a_connect(tmp_path: Path) -> None:
    flags = ("--auth.mode", "jwt", "--auth.secret", SECRET)
    async with Node(tmp_path, *FLAGS, *flags) as node:
        async with speaking(node.port, f"/ws?token={token()}") as ann:
            good = ann.welcome["resume"]
        found = await statuses(node, f"/ws?token=bad&resume={good}", 20)
        assert found == {401: CONNECTS - 1, 429: 20 - CONNECTS + 1}


async def test_who_does_resume_comes_in_though_the_address_has_no_connect_left(tmp_path: Path) -> None:
    async with Node(tmp_path, *FLAGS) as node:
        async with speaking(node.port, "/ws?user=ann") as ann:
            good = ann.welcome["resume"]
            assert (await statuses(node, "/ws?user=mallory", 2 * CONNECTS))[429] == CONNECTS + 1
        async with speaking(node.port, f"/ws?user=ann&resume={good}") as ann:
            assert ann.welcome["resumed"]
