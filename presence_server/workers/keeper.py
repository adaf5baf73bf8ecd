"""The process that outlives the others: it ends the embedded store, and removes the private folder.

Run as a program, by its path, with the folder and the store's command line. It needs the standard library alone.
It reads its standard input to the end, which comes when the supervisor is gone, however that ended; then it kills the
store and removes the folder. A byte before that asks it to start the store. On its standard output it writes a line
`said TEXT` for each line of the store, and `ended CODE` when that has ended.

Signals of a terminal or a service manager go to every process of a group: neither the keeper nor the store may heed
them, since the workers still need the store to drain.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG: Final = 1
CANNOT_START: Final = 127


def main(folder: str, command: list[str]) -> None:
    """Run until standard input ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the store inherits the mask and does not change it
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    store: subprocess.Popen[bytes] | None = None
    try:
        while True:
            said = -1 if store is None or store.stdout is None else store.stdout.fileno()
            readable, _, _ = select.select([0, *([said] if said >= 0 else [])], [], [])
            if 0 in readable:
                if not os.read(0, 64):
                    return
                if store is None:
                    store = _start(command, libc)
            if store is not None and said in readable and not _pass_on(said):
                _write(f"ended {store.wait()}\n".encode())
                store = None
    except BrokenPipeError:  # the supervisor is gone
        return
    finally:
        if store is not None:
            store.kill()
            store.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], libc: ctypes.CDLL | None) -> "subprocess.Popen[bytes] | None":
    """Start the store, which on Linux dies with this process, too."""

    def die_with_keeper() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        return subprocess.Popen(  # noqa: S603 - the supervisor's own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_keeper,  # noqa: PLW1509 - this process has one thread
        )
    except OSError as exc:
        _write(f"said {exc}\nended {CANNOT_START}\n".encode())
        return None


def _pass_on(descriptor: int) -> bool:
    """Pass on what the store says; tell whether it may say more."""
    text = os.read(descriptor, 65_536)
    for line in text.splitlines():
        _write(b"said " + line[:500] + b"\n")
    return bool(text)


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
