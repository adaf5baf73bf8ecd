"""Real Redis and Valkey servers on TCP ports of loopback, a set of them that Sentinels watch, a Cluster of them."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from presence_server.redis_io.cluster_slots import ClusterServers, SlotMap
from tests.support.redis_server import executable
from tests.support.waiting import eventually

DEADLINE_S: Final = 60
ASK_S: Final = 20
HOST: Final = "127.0.0.1"
SERVICE: Final = "mymaster"
SLOTS: Final = 16_384


def free_port() -> int:
    """Return a port that nobody listens on, and whose bus port (10,000 above) is one."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind((HOST, 0))
            port: int = one.getsockname()[1]
            if port + 10_000 < 65_536:
                try:
                    other.bind((HOST, port + 10_000))
                except OSError:
                    continue
                return port


def wait_for(condition: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for a condition, outside of an event loop."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, what()
        time.sleep(0.02)


async def slots_seen(servers: ClusterServers, right: Callable[[SlotMap], object] = bool) -> SlotMap:
    """Ask a Cluster for its slots until the answer is right; a busy machine may miss the deadline of one question."""

    async def ask() -> SlotMap | None:
        with contextlib.suppress(redis.ConnectionError):
            return await servers.ask_slots()
        return None

    slots = await eventually(ask, lambda slots: slots is not None and right(slots))
    assert slots is not None
    return slots


class TcpServer:
    """One process; `options` are those of its command line, without dashes."""

    def __init__(self, kind: str, options: dict[str, str], sentinel_config: str = "") -> None:
        self.port = free_port()
        self.is_frozen = False
        self._folder = Path(tempfile.mkdtemp(prefix="presence-"))
        self._process: subprocess.Popen[bytes] | None = None
        options = {"port": str(self.port), "bind": HOST, "dir": str(self._folder)} | options
        config = self._folder / "server.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()) + sentinel_config)
        self._command = [executable(kind), str(config), *(["--sentinel"] if sentinel_config else [])]
        # Asked once: redis-py would try ten times, for most of a minute.
        self._client = redis.Redis(HOST, self.port, socket_timeout=ASK_S, retry=Retry(NoBackoff(), 0))

    @property
    def runs(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self._process is not None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for(self.answers, (self._folder / "log").read_text)

    def answers(self) -> bool:
        """Tell whether it does."""
        try:
            return bool(self.ask("PING"))
        except redis.AuthenticationError:
            return True  # and wants a password
        except redis.RedisError:
            return False

    def ask(self, *command: str | bytes | int) -> Any:
        """Run one command, once."""
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # its stub is half typed
        finally:
            self._client.connection_pool.disconnect(inuse_connections=False)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.is_frozen = False

    def freeze(self) -> None:
        """Stop the process, sockets open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.is_frozen = False

    def close(self) -> None:
        """Kill it, and remove what it wrote."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class SentinelSet:
    """One primary, two replicas, and three Sentinels that fail over quickly."""

    def __init__(self, kind: str, *, down_ms: int = 500, failover_ms: int = 2_000) -> None:
        plain = {
            "save": '""',
            "appendonly": "no",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
        }
        self.servers = [TcpServer(kind, plain)]
        following = plain | {"replicaof": f"{HOST} {self.servers[0].port}"}
        self.servers += [TcpServer(kind, following) for _ in range(2)]
        watching = (
            f"sentinel monitor {SERVICE} {HOST} {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {down_ms}\n"
            f"sentinel failover-timeout {SERVICE} {failover_ms}\n"
        )
        self.sentinels = [TcpServer(kind, {}, sentinel_config=watching) for _ in range(3)]
        self.url = f"redis+sentinel://{','.join(each.address for each in self.sentinels)}/{SERVICE}"

    def __enter__(self) -> Self:
        try:
            for server in (*self.servers, *self.sentinels):
                server.start()
            # A failover needs Sentinels that know each other, and replicas that they know.
            wait_for(lambda: all(self._sees(s) == (2, 2) for s in self.sentinels), self._seen)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    def primary(self) -> TcpServer:
        """Return the server that a majority of the Sentinels takes for the primary."""
        ports = [self._port_of(sentinel) for sentinel in self.sentinels]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def _port_of(self, sentinel: TcpServer) -> int:
        _, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)

    def _sees(self, sentinel: TcpServer) -> tuple[int, int]:
        fields = self._fields(sentinel)
        return int(fields["num-slaves"]), int(fields["num-other-sentinels"])

    def _fields(self, sentinel: TcpServer) -> dict[str, Any]:
        with redis.Redis(HOST, sentinel.port, decode_responses=True, protocol=2) as client:
            fields: dict[str, Any] = client.sentinel_master(SERVICE)
            return fields

    def _seen(self) -> object:
        return [self._fields(sentinel) for sentinel in self.sentinels]


class ServerCluster:
    """Three primaries, each with a replica where there are to be any, that share the slots of a Cluster.

    `lasts` are the last slots of the primaries; by default they have a third each. `more` are further options.
    """

    def __init__(
        self,
        kind: str,
        *,
        replicas: bool = True,
        node_timeout_ms: int = 1_000,
        lasts: Sequence[int] = (5_461, 10_922, SLOTS - 1),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._lasts = lasts
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(node_timeout_ms),
            "cluster-require-full-coverage": "no",
            "cluster-replica-validity-factor": "0",
            # On a busy machine a primary may be silent for longer than its timeout, though no test has failed it.
            "cluster-replica-no-failover": "yes",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            "save": '""',
            "appendonly": "no",
            **more,
        }
        self.servers = [TcpServer(kind, options) for _ in range(6 if replicas else 3)]
        self.url = f"redis+cluster://{','.join(each.address for each in self.servers[:3])}"

    def __enter__(self) -> Self:
        try:
            self.start()
            self.join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for server in self.servers:
            server.close()

    def start(self) -> None:
        """Start every server that does not run; they know each other still, if they ever did."""
        for server in self.servers:
            if not server.runs:
                server.start()

    def join(self) -> None:
        """Make one Cluster of the servers."""
        for number, server in enumerate(self.servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < 3:
                first = self._lasts[number - 1] + 1 if number else 0
                server.ask("CLUSTER", "ADDSLOTSRANGE", first, self._lasts[number])
            if number:
                server.ask("CLUSTER", "MEET", HOST, self.servers[0].port)
        wait_for(lambda: all(len(self.view(s)) == len(self.servers) for s in self.servers), self._views)
        for number, server in enumerate(self.servers[3:]):
            server.ask("CLUSTER", "REPLICATE", self.servers[number].ask("CLUSTER", "MYID"))
        self.settle()

    def allow_failover(self, failing: TcpServer) -> None:
        """Let the replica of one of the first three servers take over when that fails; call it before that."""
        replica = self.servers[3 + self.servers.index(failing)]
        replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")

    def settle(self) -> None:
        """Wait until every server that runs says that all is well, and replicas follow."""
        wait_for(lambda: all(self._is_well(s) for s in self.running), self._views)

    def _is_well(self, server: TcpServer) -> bool:
        info = server.ask("CLUSTER", "INFO").decode()
        well = "cluster_state:ok" in info and f"cluster_slots_assigned:{SLOTS}" in info
        role = server.ask("ROLE")
        return well and (role[0] == b"master" or role[3] == b"connected")

    @property
    def running(self) -> list[TcpServer]:
        """Return the servers that can be asked."""
        return [server for server in self.servers if server.runs and not server.is_frozen]

    def view(self, server: TcpServer) -> list[str]:
        """Return what a server says of all, a line each."""
        text: bytes = server.ask("CLUSTER", "NODES")
        return [line for line in text.decode().splitlines() if "handshake" not in line]

    def owner(self, slot: int) -> TcpServer:
        """Return the server that has a slot, by what another says that runs."""
        return next(server for server in self.servers if slot in self.slots_of(server))

    def slots_of(self, server: TcpServer) -> set[int]:
        """Return the slots that a server has, by what another says that runs."""
        ranges = self.running[0].ask("CLUSTER", "SLOTS")
        return {
            n
            for first, last, (_, port, *_), *_ in ranges
            if port == server.port
            for n in range(first, last + 1)
        }

    def migrate(self, slot: int, target: TcpServer) -> None:
        """Move a slot with everything in it, as `redis-cli --cluster reshard` does."""
        self.begin_migration(slot, target)
        self.end_migration(slot, target)

    def begin_migration(self, slot: int, target: TcpServer) -> None:
        """Move what is in a slot, and leave the slot where it is."""
        source = self.owner(slot)
        source_id, target_id = (s.ask("CLUSTER", "MYID") for s in (source, target))
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)

    def end_migration(self, slot: int, target: TcpServer) -> None:
        """Let a slot be where its keys are."""
        source, target_id = self.owner(slot), target.ask("CLUSTER", "MYID")
        for server in (target, source, *(s for s in self.running if s not in (source, target))):
            with contextlib.suppress(redis.ResponseError):  # a replica has none of its own
                server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def drop_slot(self, slot: int) -> None:
        """Let a slot be at no server; only where there are no replicas."""
        for server in self.servers:
            server.ask("CLUSTER", "DELSLOTS", slot)

    def _views(self) -> object:
        return [self.view(server) for server in self.running]
