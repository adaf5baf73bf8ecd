"""TLS on the client port."""

import json
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from tests.edge.conftest import UNTHROTTLED
from tests.support.memory import open_files
from tests.support.metrics import scrape, value
from tests.support.node import PROJECT, Node
from tests.support.rawclient import EndedError, RawClient, frame, request
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

FIXTURES = PROJECT / "tests" / "config" / "tls"
HANDSHAKE_MS = 2_000
DEADLINE_S = 20


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (*UNTHROTTLED, "--limits.handshake_ms", str(HANDSHAKE_MS))
    args += ("--server.tls_cert", str(FIXTURES / "cert.pem"), "--server.tls_key", str(FIXTURES / "key.pem"))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(FIXTURES / "cert.pem"))
    context.check_hostname = False
    return context


async def test_a_conversation_goes_over_tls(node: Node) -> None:
    url = node.ws_url.replace("ws:", "wss:")
    with anyio.fail_after(DEADLINE_S):
        async with connect(url, ssl=trusting()) as alice, connect(url, ssl=trusting()) as bob:
            for client in (alice, bob):
                assert json.loads(await client.recv())["t"] == "welcome"
                await client.send(json.dumps({"t": "join", "room": "lobby", "id": 1}))
                assert json.loads(await client.recv())["t"] == "sync"
            assert json.loads(await alice.recv())["t"] == "diff"
            data = "x" * 16_000
            await bob.send(json.dumps({"t": "publish", "room": "lobby", "data": data}))
            assert json.loads(await alice.recv())["data"] == data
            await bob.close()
            assert bob.close_code == 1000


async def test_pages_are_served_over_tls(node: Node) -> None:
    with anyio.fail_after(DEADLINE_S):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting()
            context.minimum_version = context.maximum_version = version
            reader = await anyio.connect_tcp(
                "127.0.0.1", node.port, ssl_context=context, tls_standard_compatible=False
            )
            async with reader:
                await reader.send(request("/healthz", base={}))
                answer = b""
                async for data in reader:
                    answer += data
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b'{"status":"ok"}')


async def refused(node: Node) -> float:
    """Return how many connections were closed because they broke the WebSocket protocol."""
    return value(await scrape(node), "presence_closes_total", code="1002")


async def test_who_still_sends_hears_why_it_was_closed(node: Node) -> None:
    """A socket that is closed with bytes unread is reset, and what its client has not read is lost."""
    with anyio.fail_after(DEADLINE_S):
        reader = await anyio.connect_tcp(
            "127.0.0.1", node.port, ssl_context=trusting(), tls_standard_compatible=False
        )
        async with reader:
            await reader.send(request())
            while b'"t":"welcome"' not in await reader.receive():
                pass
            answer = b""
            async with anyio.create_task_group() as tasks:

                async def send_on() -> None:
                    await reader.send(frame(0x3))
                    with suppress(anyio.BrokenResourceError):
                        while True:
                            await reader.send(bytes(2**16))

                tasks.start_soon(send_on)
                await eventually(lambda: refused(node), lambda count: count == 1)
                with suppress(anyio.BrokenResourceError):
                    async for data in reader:
                        answer += data
                tasks.cancel_scope.cancel()
            assert b"\x03\xea" in answer


async def test_plain_text_is_not_let_in(node: Node) -> None:
    async with RawClient(node.port) as client:
        with pytest.raises(EndedError):
            await client.ask("/healthz", base={})


async def test_a_tls_handshake_that_never_ends_is_gone_in_time(node: Node) -> None:
    files = open_files(node.pid)
    hello = bytes.fromhex("16030100c8010000c40303") + b"\x00" * 50
    with anyio.fail_after(DEADLINE_S):
        for beginning in (b"", b"\x16", hello):
            async with RawClient(node.port) as client:
                await client.send(beginning)
                with pytest.raises(EndedError):
                    await client.receive()
        while open_files(node.pid) > files:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.01)


async def test_a_request_that_never_ends_is_gone_in_time(node: Node) -> None:
    with anyio.fail_after(DEADLINE_S):
        reader = await anyio.connect_tcp(
            "127.0.0.1", node.port, ssl_context=trusting(), tls_standard_compatible=False
        )
        async with reader:
            await reader.send(b"GET /ws HTTP/1.1\r\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await reader.receive()


async def test_a_drain_ends_tls_connections_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    args = ("--server.tls_cert", str(FIXTURES / "cert.pem"), "--server.tls_key", str(FIXTURES / "key.pem"))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        async with connect(node.ws_url.replace("ws:", "wss:"), ssl=trusting()) as client:
            await client.recv()
            node.terminate()
            with anyio.fail_after(DEADLINE_S):
                bye = json.loads(await client.recv())
                assert (bye["t"], bye["code"]) == ("bye", 4200)
                await client.wait_closed()
            assert client.close_code == 4200
        assert await node.wait() == 0


def new_certificate(folder: Path, name: str) -> bytes:
    """Write a certificate for `name` and its key; return it as it goes over the wire."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return certificate.public_bytes(Encoding.DER)


async def test_a_new_certificate_is_shown_after_sighup_and_a_broken_one_never(tmp_path: Path) -> None:
    def shown(node: Node) -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", node.port)))

    first = new_certificate(tmp_path, "first")
    args = ("--server.tls_cert", str(tmp_path / "cert.pem"), "--server.tls_key", str(tmp_path / "key.pem"))
    async with Node(tmp_path, *args) as node:
        assert await to_thread.run_sync(shown, node) == first
        (tmp_path / "cert.pem").write_text("nonsense")
        node.signal(signal.SIGHUP)
        await until(lambda: "the old ones stay" in node.log, lambda: node.log)
        assert await to_thread.run_sync(shown, node) == first
        second = new_certificate(tmp_path, "second")
        node.signal(signal.SIGHUP)
        await until(lambda: "read again" in node.log, lambda: node.log)
        assert await to_thread.run_sync(shown, node) == second
