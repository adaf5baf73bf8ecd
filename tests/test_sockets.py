"""The client port: one process alone, or one supervisor with its workers, and nobody beside them."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

import pytest

from presence_server.errors import ListenError
from presence_server.sockets import listen_for_clients, reserve_client_port

pytestmark = pytest.mark.anyio

Taking = Callable[[int], Awaitable[Sequence[socket.socket]]]
UNSENT_BYTES = 65_536
ANY = "0.0.0.0"  # noqa: S104 - what is tested


async def as_one_process(port: int) -> Sequence[socket.socket]:
    return await listen_for_clients("127.0.0.1", port, shared=False, unsent_bytes=UNSENT_BYTES)


async def as_supervisor(port: int) -> Sequence[socket.socket]:
    return await reserve_client_port("127.0.0.1", port)


async def as_worker(port: int) -> Sequence[socket.socket]:
    return await listen_for_clients("127.0.0.1", port, shared=True, unsent_bytes=UNSENT_BYTES)


def port_of(sockets: Sequence[socket.socket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


def keep(stack: ExitStack, sockets: Sequence[socket.socket]) -> int:
    """Keep the sockets open as long as the stack is; return their port."""
    for sock in sockets:
        stack.enter_context(sock)
    return port_of(sockets)


@pytest.mark.parametrize("second", [as_one_process, as_supervisor])
@pytest.mark.parametrize("first", [as_one_process, as_supervisor])
async def test_a_port_is_had_by_one_even_while_its_workers_do_not_listen(
    first: Taking, second: Taking
) -> None:
    with ExitStack() as stack:
        port = keep(stack, await first(0))
        for _ in range(2):  # a refusal must not free the port
            with pytest.raises(ListenError, match=f"^server.port: 127.0.0.1, port {port} is in use; try"):
                await second(port)
    with ExitStack() as stack:
        assert keep(stack, await second(port)) == port


@pytest.mark.parametrize("second", [as_one_process, as_supervisor])
@pytest.mark.parametrize("first", [as_one_process, as_supervisor])
async def test_connections_that_have_ended_do_not_keep_a_port(first: Taking, second: Taking) -> None:
    with ExitStack() as stack:
        listening = await first(0)
        port = keep(stack, listening)
        if first is as_supervisor:
            listening = await as_worker(port)
            keep(stack, listening)
        listening[0].setblocking(True)
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        accepted, _ = listening[0].accept()
        accepted.close()  # first, so that TIME_WAIT is on this side
        assert client.recv(1) == b""
    with ExitStack() as stack:
        assert keep(stack, await second(port)) == port


async def test_workers_share_the_port_of_their_supervisor() -> None:
    with ExitStack() as stack:
        port = keep(stack, await as_supervisor(0))
        assert keep(stack, await as_worker(port)) == port
        assert keep(stack, await as_worker(port)) == port


async def test_a_port_is_free_at_another_address() -> None:
    with ExitStack() as stack:
        port = keep(stack, await as_supervisor(0))
        assert keep(stack, await reserve_client_port("127.0.0.2", port)) == port


@pytest.mark.parametrize(("first", "second"), [(ANY, "127.0.0.1"), ("127.0.0.1", ANY)])
async def test_a_port_at_every_address_is_had_at_none_by_others(first: str, second: str) -> None:
    with ExitStack() as stack:
        port = keep(stack, await reserve_client_port(first, 0))
        with pytest.raises(ListenError, match=f"port {port} is in use"):
            await reserve_client_port(second, port)


async def test_a_server_that_listens_already_is_named_for_workers_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for take in (as_one_process, as_supervisor, as_worker):
            with pytest.raises(ListenError, match=f"port {port} is in use"):
                await take(port)
