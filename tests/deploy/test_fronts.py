"""`deploy/haproxy` and `deploy/nginx`, with the real programs in front of two real nodes."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from presence_server.client import Client, Message, connect
from presence_server.config.settings import PresenceSettings
from tests.deploy.site import Site, answers, site
from tests.support import signing
from tests.support.daemon import LOOPBACK
from tests.support.front import DEPLOY, HOSTS, KINDS
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

LIMIT = 4
SHORT_MS = 2_000
SHORTENED = {
    "haproxy": {"timeout tunnel 60s": f"timeout tunnel {SHORT_MS}ms"},
    "nginx": {
        "proxy_read_timeout 60s": f"proxy_read_timeout {SHORT_MS}ms",
        "proxy_send_timeout 60s": f"proxy_send_timeout {SHORT_MS}ms",
    },
}
"""So that a test can wait for longer than they are; pings come as much more often."""
LONG_DELAY = ("--server.drain_delay_ms", "60000")
TIMEOUTS = {
    "haproxy/presence.cfg": r"timeout tunnel (\d+)s",
    "nginx/presence.conf": r"proxy_(?:read|send)_timeout (\d{2,})s",
}


@pytest.fixture(scope="module", params=KINDS)
async def behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Site]:
    args: tuple[str, ...] = ("--throttle.connect", f"{LIMIT}/600s", "--throttle.allow", f'["{LOOPBACK}"]')
    args += ("--throttle.deadline_ms", "5000")  # else a busy machine has each node count alone
    args += ("--presence.ping_ms", "300", "--presence.ping_timeout_ms", "15000")
    args += ("--server.drain_ms", "60000", "--limits.handshake_ms", "60000")
    folder, changes = tmp_path_factory.mktemp(request.param), SHORTENED[request.param]
    async with site(request.param, folder, *args, changes=changes, first=LONG_DELAY) as started:
        await started.in_use(*started.nodes)
        yield started


async def test_a_conversation_goes_over_tls_to_both_nodes(behind: Site) -> None:
    front = behind.front
    clients: list[Client] = []
    async with AsyncExitStack() as stack:
        while len({client.node for client in clients}) < 2:
            token = signing.token(sub=f"user-{len(clients)}")
            clients.append(await stack.enter_async_context(connect(front.url, token=token, ssl=front.tls)))
        alice, bob = clients[0], clients[-1]
        room = await alice.join("lobby")
        other = await bob.join("lobby")
        await until(lambda: set(room.users) == {alice.user, bob.user})
        await other.publish("hello")
        with anyio.fail_after(30):
            async for event in room:
                if isinstance(event, Message):
                    assert (event.user, event.data) == (bob.user, "hello")
                    break


async def test_a_client_is_counted_by_its_own_address_whatever_it_says(behind: Site) -> None:
    liar, victim = "127.0.0.51", "127.0.0.52"
    statuses = [
        await behind.try_handshake(
            source=liar, headers={"X-Forwarded-For": f"203.0.113.{i}", "X-Real-IP": f"203.0.113.{i}"}
        )
        for i in range(LIMIT + 1)
    ]
    assert statuses == [101] * LIMIT + [429]
    assert await behind.try_handshake(source=liar, headers={"X-Forwarded-For": victim}) == 429
    assert await behind.try_handshake(source=victim) == 101


async def test_a_page_may_connect_to_the_host_that_it_is_of_and_others_may_not(behind: Site) -> None:
    own = behind.front.url.replace("wss:", "https:").removesuffix("/ws")
    assert await behind.try_handshake(headers={"Origin": own}) == 101
    assert await behind.try_handshake(headers={"Origin": "https://elsewhere.example"}) == 403


async def test_an_idle_connection_outlives_every_timeout_since_the_node_pings(behind: Site) -> None:
    socket, _ = await behind.open("idle")
    await anyio.sleep(2.5 * SHORT_MS / 1_000)  # this is what is tested
    assert await behind.try_handshake() == 101
    await (await socket.ping())
    await socket.close()


@pytest.mark.parametrize("name", TIMEOUTS)
def test_the_timeouts_are_longer_than_ping_ms(name: str) -> None:
    found = re.findall(TIMEOUTS[name], (DEPLOY / name).read_text(encoding="utf-8"))
    assert found
    for seconds in found:
        assert int(seconds) * 1_000 > PresenceSettings().ping_ms + PresenceSettings().ping_timeout_ms


async def test_a_node_that_alone_has_lost_the_store_is_taken_out_and_not_if_all_have(behind: Site) -> None:
    first, second = behind.nodes
    behind.networks[0].cut()
    await eventually(lambda: behind.nodes_of(6), lambda reached: reached == {second.id})
    behind.networks[1].cut()
    for node in behind.nodes:
        await answers(node, 503)
    reached = await eventually(lambda: behind.nodes_if_any(1), bool)
    assert reached <= {first.id, second.id}
    await behind.in_use(*behind.nodes)
    for network in behind.networks:
        network.heal()
    for node in behind.nodes:
        await answers(node, 200)
    await behind.in_use(*behind.nodes)


async def test_nobody_new_comes_to_a_node_that_is_to_drain_and_who_is_there_stays(behind: Site) -> None:
    first, second = behind.nodes
    residents = [await behind.open("resident") for _ in range(6)]
    resident = next(socket for socket, welcome in residents if welcome["node"] == first.id)
    first.terminate()
    await answers(first, 503)
    await eventually(lambda: behind.nodes_of(6), lambda reached: reached == {second.id})
    await (await resident.ping())
    first.terminate()  # a second signal ends it
    assert await first.wait() == 0
    assert await behind.nodes_of(6) == {second.id}
    for socket, _ in residents:
        await socket.close()
    await first.start()
    await behind.in_use(*behind.nodes)


async def test_what_a_draining_node_refuses_goes_to_another_before_any_probe_has_seen_it(
    behind: Site,
) -> None:
    first, second = behind.nodes
    async with await anyio.connect_tcp(HOSTS[1], second.port):  # a socket that stays keeps it draining
        second.terminate()
        await until(lambda: "draining" in second.log)
        assert await behind.nodes_of(6) == {first.id}
        assert second.returncode is None
        second.terminate()
        await second.wait()
    await second.start()
    await behind.in_use(*behind.nodes)


async def test_what_a_frozen_node_does_not_answer_goes_to_another(behind: Site) -> None:
    first, second = behind.nodes
    second.freeze()
    with anyio.fail_after(25):
        assert await behind.nodes_of(2) == {first.id}
    second.thaw()
    await behind.in_use(*behind.nodes)


async def test_what_a_dead_node_does_not_take_goes_to_another_before_any_probe_has_seen_it(
    behind: Site,
) -> None:
    first, second = behind.nodes
    second.kill()
    await second.wait()
    assert await behind.nodes_of(6) == {first.id}
    await second.start()
    await behind.in_use(*behind.nodes)
