"""The server as a real process: started, addressed, signalled and stopped by tests.

    async with Node(tmp_path, "--presence.grace_lost_ms", "200") as node:
        async with connect(node.ws_url, user="alice") as client: ...

What the process writes to standard error goes to `log_path`, and is printed when the test is over,
so that pytest shows it with a failure.
"""

import os
import signal
import sys
from collections.abc import Mapping
from io import FileIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.abc

from tests.support.fork_server import Fork, fork

PROJECT = Path(__file__).parents[2]
READY_DEADLINE_S = 60
STOP_DEADLINE_S = 60

UNTHROTTLED = (
    *("--throttle.connect", "", "--throttle.resume", "", "--throttle.messages", ""),
    *("--throttle.concurrent_per_ip", "0"),
    *("--limits.overload_ms", "60000"),
)
"""All clients of a test come from one address, and a node that is late is on a slow machine.

A test of limits, or of overload, has later flags of its own.
"""

_numbers = count(1)


class NodeFailedError(Exception):
    """The process did not do what it was told; the message holds its log."""


class Node:
    """One `presence-server serve` on free ports of 127.0.0.1.

    `args` go to the command line after `serve`; `env` is added to this process's environment, without
    any `PRESENCE_…` of it. A node that was stopped or killed may be started again: it keeps its ports.
    """

    forked = True
    """Whether a fork of a process that has imported the server will do; not where `env` is for Python or the linker."""

    def __init__(
        self,
        directory: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        api_port: int = 0,
    ) -> None:
        self.args = args
        self.env = dict(env or {})
        self.port = port
        self.api_port = api_port
        self.id = ""
        self.unthrottled = True
        """Whether the limits on clients are off but for what `args` say."""
        self.log_path = directory / f"node-{next(_numbers)}.log"
        self._client = ""
        self._api = ""
        self._process: anyio.abc.Process | Fork | None = None
        self._output: FileIO | None = None

    @property
    def ws_url(self) -> str:
        """Where clients connect."""
        return f"ws://{self._client}/ws"

    @property
    def http_url(self) -> str:
        """The client port for plain HTTP, without a slash at its end."""
        return f"http://{self._client}"

    @property
    def api_url(self) -> str:
        """The internal port, without a slash at its end."""
        return f"http://{self._api}"

    @property
    def pid(self) -> int:
        """The process's number; raises `RuntimeError` before `start`."""
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """The process's exit code, negative for a signal; None while it runs or was never started."""
        return None if self._process is None else self._process.returncode

    @property
    def output(self) -> FileIO:
        """The process's standard output after its `ready` line, until `wait`; raises `RuntimeError` before `start`."""
        if self._output is None:
            raise RuntimeError("the node was not started")
        return self._output

    @property
    def log(self) -> str:
        """Everything that the process wrote to standard error so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def start(self) -> None:
        """Start the process and wait for its `ready` line; raises `NodeFailedError` without one in time."""
        output, its_output = os.pipe()
        self._output = os.fdopen(output, "rb", buffering=0)
        try:
            self._process = await self._started(its_output)
        finally:
            os.close(its_output)
        try:
            with anyio.fail_after(READY_DEADLINE_S):
                self._read_ready(await self._ready_line(self._output))
        except BaseException as exc:
            self.kill()
            await self.wait()
            if isinstance(exc, TimeoutError):
                raise NodeFailedError(self._with_log("no ready line in time")) from None
            raise

    async def _started(self, output: int) -> anyio.abc.Process | Fork:
        """Start the process, whose standard output goes to `output`."""
        args = [
            "serve",
            "--port",
            str(self.port),
            "--api-port",
            str(self.api_port),
            *(UNTHROTTLED if self.unthrottled else ()),
            *self.args,
        ]
        env = {key: value for key, value in os.environ.items() if not key.startswith("PRESENCE_")} | self.env
        with self.log_path.open("ab") as log:
            if self.forked and all(key.startswith("PRESENCE_") for key in self.env):
                return await fork(args, env, output, log.fileno())
            command = [sys.executable, "-m", "presence_server", *args]
            return await anyio.open_process(
                command, stdin=None, stdout=output, stderr=log, cwd=PROJECT, env=env
            )

    async def wait(self) -> int:
        """Wait until the process has ended, and return its exit code (negative: the signal)."""
        process = self._running()
        with anyio.CancelScope(shield=True), anyio.fail_after(STOP_DEADLINE_S):
            code = await process.wait()
            await process.aclose()
        if self._output is not None:
            self._output.close()
        return code

    async def stop(self) -> int:
        """SIGTERM and wait; kills it and raises `NodeFailedError` when it does not end in time."""
        self.terminate()
        try:
            return await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()
            raise NodeFailedError(self._with_log("SIGTERM did not end it")) from None

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: die without a word, as a crash does."""
        self.signal(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: alive, its sockets open, and deaf, until `thaw`."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended already gets none."""
        process = self._running()
        if process.returncode is None:
            try:
                process.send_signal(number)
            except ProcessLookupError:  # it ended just now
                return

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.thaw()
            if kind is None:
                await self.stop()
            else:
                self.kill()
                await self.wait()
        finally:
            sys.stderr.write(self._with_log(f"node {self.id}"))

    async def _ready_line(self, output: FileIO) -> str:
        text = ""
        while True:
            await anyio.wait_readable(output)
            chunk = output.read(4096) or b""
            text += chunk.decode()
            for line in text.splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    return line
            if not chunk:
                code = await self._running().wait()
                raise NodeFailedError(self._with_log(f"ended with {code} before it was ready"))

    def _read_ready(self, line: str) -> None:
        fields = dict(field.split("=", 1) for field in line.split()[1:])
        self._client, self._api, self.id = fields["client"], fields["api"], fields["node"]
        self.port = int(self._client.rpartition(":")[2])
        self.api_port = int(self._api.rpartition(":")[2])

    def _running(self) -> anyio.abc.Process | Fork:
        if self._process is None:
            raise RuntimeError("the node was not started")
        return self._process

    def _with_log(self, what: str) -> str:
        return f"{what}; its log:\n{self.log}\n"
