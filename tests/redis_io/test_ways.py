"""The ways to a server: TLS with a private CA, users and passwords, over each topology."""

import gc
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from ssl import SSLContext

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from presence_server.config.store_url import parse_store_url
from presence_server.redis_io import tls_connection
from presence_server.redis_io.client import AWAY, RedisClient
from presence_server.redis_io.cluster_slots import ClusterServers
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.tls_connection import TlsConnection
from tests.support.redis_server import executable
from tests.support.tcp_servers import DEADLINE_S, HOST, TcpServer, free_port, slots_seen

pytestmark = pytest.mark.anyio
PASSWORD = "p@ss/word"
ENCODED = "p%40ss%2Fword"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def abandoned_handshakes() -> Iterator[None]:
    """Collect what asyncio leaves of a TLS handshake that is given up at its deadline, on a busy machine."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return the folder of a certificate for `HOST`, which is its own authority."""
    return write_certificate(tmp_path)


def write_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return folder


class TlsServer(TcpServer):
    """A server of which a TLS port is asked too, by a user with a password."""

    def __init__(self, certificate: Path, *, cluster: bool = False) -> None:
        self.tls_port = free_port()
        options = {
            "tls-port": str(self.tls_port),
            "tls-cert-file": str(certificate / "cert.pem"),
            "tls-key-file": str(certificate / "key.pem"),
            "tls-ca-cert-file": str(certificate / "cert.pem"),
            "tls-auth-clients": "no",
            "user": f"node on >{PASSWORD} ~* &* +@all",
        }
        super().__init__(
            "redis", options | ({"cluster-enabled": "yes", "tls-cluster": "yes"} if cluster else {})
        )


@pytest.fixture
def tls_server(certificate: Path, request: pytest.FixtureRequest) -> Iterator[TlsServer]:
    executable("redis")
    running = TlsServer(certificate, cluster=request.param)
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("tls_server", [False], indirect=True)
async def test_a_standalone_server_is_reached_over_tls_by_a_user(
    tls_server: TlsServer, certificate: Path
) -> None:
    place = f"node:{ENCODED}@{HOST}:{tls_server.tls_port}"
    trusted = f"ssl_ca_certs={certificate / 'cert.pem'}"
    for url in (f"rediss://{place}?{trusted}", f"rediss://{place}?ssl_cert_reqs=none"):
        client = RedisClient(url, DEADLINE_S)
        assert await client.execute("ACL", "WHOAMI") == b"node"
        lane = client.lane()
        assert await lane.pipeline([Call(("ACL", "WHOAMI"))]) == [b"node"]
        await lane.aclose()
        subscriber = await client.new_subscriber()
        await subscriber.disconnect(nowait=True)
        await client.aclose()
    for wrong in (f"rediss://{place}", f"rediss://node:x@{HOST}:{tls_server.tls_port}?{trusted}"):
        client = RedisClient(wrong, DEADLINE_S)
        with pytest.raises(AWAY):
            await client.execute("PING")
        await client.aclose()


@pytest.mark.parametrize("tls_server", [False], indirect=True)
async def test_with_certificates_of_its_own_a_url_trusts_none_of_the_systems(
    tls_server: TlsServer,
    certificate: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls_connection.context.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    place = f"node:{ENCODED}@{HOST}:{tls_server.tls_port}"
    by_the_system = RedisClient(f"rediss://{place}", DEADLINE_S)
    assert await by_the_system.execute("ACL", "WHOAMI") == b"node"
    await by_the_system.aclose()
    other = write_certificate(tmp_path_factory.mktemp("other"))
    client = RedisClient(f"rediss://{place}?ssl_ca_certs={other / 'cert.pem'}", DEADLINE_S)
    with pytest.raises(AWAY, match="CERTIFICATE_VERIFY_FAILED"):
        await client.execute("PING")
    await client.aclose()
    tls_connection.context.cache_clear()


@pytest.mark.parametrize("tls_server", [False], indirect=True)
async def test_connections_share_a_context_until_its_files_change(
    tls_server: TlsServer, certificate: Path
) -> None:
    trusted = certificate / "trusted.pem"
    trusted.write_bytes((certificate / "cert.pem").read_bytes())
    client = RedisClient(
        f"rediss://node:{ENCODED}@{HOST}:{tls_server.tls_port}?ssl_ca_certs={trusted}", DEADLINE_S
    )

    async def used() -> SSLContext | None:
        lane = client.lane()
        await lane.pipeline([Call(("PING",))])
        connection = lane._connection
        await lane.aclose()
        assert isinstance(connection, TlsConnection)
        return connection.ssl_context.context

    first = await used()
    assert first is not None
    assert await used() is first
    os.utime(trusted, ns=(0, 0))
    assert await used() is not first
    await client.aclose()


@pytest.mark.parametrize("tls_server", [True], indirect=True)
async def test_a_cluster_is_seen_over_tls_by_a_user(tls_server: TlsServer, certificate: Path) -> None:
    tls_server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    parameters = f"ssl_ca_certs={certificate / 'cert.pem'}"
    url = parse_store_url(f"rediss+cluster://node:{ENCODED}@{HOST}:{tls_server.tls_port}?{parameters}")
    servers = ClusterServers(url)
    slots = await slots_seen(servers)
    assert slots.uncovered() == []
    (address,) = slots.primaries
    assert address.port == tls_server.tls_port
    client = RedisClient(url, DEADLINE_S, at=address)
    assert await client.execute("ACL", "WHOAMI") == b"node"
    await client.aclose()
    await servers.aclose()
