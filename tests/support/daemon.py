"""A program of the system's, such as a proxy: found, started on a port of loopback, stopped."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Final, Self

import pytest

DEADLINE_S: Final = 20
LOOPBACK: Final = "127.0.0.1"


def find_program(name: str) -> str:
    """Return a program's path; skip where it is not installed, unless in CI."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            raise AssertionError(f"there is no {name}, and CI must have one")
        pytest.skip(f"NOT TESTED with {name}: there is none on this machine")
    return found


def free_port(*hosts: str) -> int:
    """Return a port that nobody listens on now, on any of these addresses."""
    while True:
        taken: list[socket.socket] = []
        port = 0
        try:
            for host in hosts or (LOOPBACK,):
                taken.append(socket.socket())
                taken[-1].bind((host, port))
                port = taken[-1].getsockname()[1]
        except OSError:
            continue
        finally:
            for sock in taken:
                sock.close()
        return port


class Daemon:
    """One process that listens on `port` of loopback while it is entered."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + DEADLINE_S
        try:
            while not self._listens():
                assert self._process.poll() is None, f"{self._command[0]} does not start"
                assert time.monotonic() < deadline, f"{self._command[0]} does not listen"
                time.sleep(0.01)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex((LOOPBACK, self.port)) == 0
