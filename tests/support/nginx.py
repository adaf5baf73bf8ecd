"""The real nginx, on a port of this machine."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import pytest

DEADLINE_S: Final = 20
CONF: Final = """daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {servers}
}}
"""


def executable() -> str:
    """Return nginx's path; skip where it is not installed, unless in CI."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            raise AssertionError("there is no nginx, and CI must have one")
        pytest.skip("NOT TESTED with nginx: there is none on this machine")
    return found


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Nginx:
    """One nginx with what stands in its http block, which listens on `port`."""

    def __init__(self, servers: str, port: int) -> None:
        self._executable = executable()
        self._folder = tempfile.TemporaryDirectory(prefix="presence-")
        self._servers = servers
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        (folder / "nginx.conf").write_text(CONF.format(folder=folder, servers=self._servers))
        command = [self._executable, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + DEADLINE_S
        while not self._listens():
            assert self._process.poll() is None, "nginx does not start"
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.01)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
        self._folder.cleanup()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0
