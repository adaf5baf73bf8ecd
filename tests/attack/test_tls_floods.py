"""TLS handshakes by the hundred, which cost a node a signature each and whoever replays one nothing.

Who was answered first is told by clocks, not by when a client gets to reading its answer: by the node's own in a
`pong`, and by the kernel's, which notes when bytes arrive.
"""

import json
import socket
import ssl
import struct
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import ClientConnection, connect

from tests.support.attack import many, read_to_the_end
from tests.support.metrics import scrape, value
from tests.support.node import Node
from tests.support.rawclient import RawClient
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        sys.platform != "linux", reason="other systems have one loopback address, and note no times"
    ),
]

FLOOD: Final = 120
PER_ADDRESS: Final = 50
PATIENT: Final = ("--limits.handshake_ms", "600000")
SO_TIMESTAMPNS: Final = 35
"""Has the kernel note when bytes arrived (socket(7)); the `socket` module has no name for it."""
TIMESPEC: Final = struct.Struct("@qq")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Flags that have a node serve TLS with a key whose signatures take milliseconds."""
    folder = tmp_path_factory.mktemp("tls")
    key = rsa.generate_private_key(65_537, 4_096)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return ("--server.tls_cert", str(folder / "cert.pem"), "--server.tls_key", str(folder / "key.pem"))


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_hello() -> bytes:
    """Return what a client says first: it may be said on any number of sockets."""
    to_send = ssl.MemoryBIO()
    client = trusting().wrap_bio(ssl.MemoryBIO(), to_send)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return to_send.read()


def over_tls(node: Node, source: str = "127.0.0.1") -> connect:
    return connect(node.ws_url.replace("ws:", "wss:"), ssl=trusting(), local_addr=(source, 0))


async def pong(client: ClientConnection, number: int) -> int:
    """Read on to the answer of a ping; return when the node answered it, in ms since 1970."""
    while (answer := json.loads(await client.recv())).get("id") != number:
        pass
    return int(answer["time"])


async def ping(client: ClientConnection, number: int) -> int:
    """Send a ping and read on to its answer; return when the node answered it, in ms since 1970."""
    await client.send(json.dumps({"t": "ping", "id": number}))
    return await pong(client, number)


async def pending(node: Node) -> float:
    return value(await scrape(node), "presence_pending_sockets")


async def arrived_ms(client: RawClient) -> int:
    """Wait for bytes from the node; return when the first of them arrived, in ms since 1970."""
    await anyio.wait_readable(client.socket)
    _, notes, _, _ = client.socket.recvmsg(1, socket.CMSG_SPACE(TIMESPEC.size))
    ((_, _, noted),) = notes
    seconds, nanoseconds = TIMESPEC.unpack(noted)
    return int(seconds * 1_000 + nanoseconds // 1_000_000)


async def test_a_member_is_answered_before_a_flood_of_tls_handshakes_is(
    tmp_path: Path, tls: tuple[str, ...]
) -> None:
    hello = client_hello()
    async with (
        Node(tmp_path, *tls, *PATIENT, "--limits.pending_per_ip", "1024") as node,
        over_tls(node) as member,
        many(node.port, FLOOD) as flood,
    ):
        for client in flood:
            client.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with anyio.fail_after(DEADLINE_S):
            await ping(member, 1)
            await eventually(lambda: pending(node), lambda count: count == FLOOD)
            node.freeze()
            for client in flood:
                assert client.send_some(hello) == len(hello)
            await member.send(json.dumps({"t": "ping", "id": 2}))
            node.thaw()
            answered_ms = await pong(member, 2)
            before = sum([await arrived_ms(client) <= answered_ms for client in flood])
        assert before < FLOOD / 2


async def test_one_address_has_so_many_tls_handshakes_and_others_come_in(
    tmp_path: Path, tls: tuple[str, ...]
) -> None:
    hello = client_hello()
    bounds = (*PATIENT, "--limits.pending_per_ip", str(PER_ADDRESS))
    async with (
        Node(tmp_path, *tls, *bounds) as node,
        over_tls(node) as member,
        many(node.port, FLOOD, "127.0.0.66") as flood,
    ):
        for client in flood:
            client.send_some(hello)
        with anyio.fail_after(DEADLINE_S):
            async with over_tls(node, "127.0.0.67") as newcomer:
                await ping(newcomer, 1)
            await ping(member, 1)
            await eventually(lambda: pending(node), lambda count: count == PER_ADDRESS)
            assert value(await scrape(node), "presence_pending_dropped_total") == FLOOD - PER_ADDRESS
            for client in flood[: FLOOD - PER_ADDRESS]:
                await read_to_the_end(client)
