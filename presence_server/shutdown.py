"""The shutdown of a process: a first request drains it, a second one stops it at once."""

import signal
from typing import Final

import anyio
from anyio.abc import TaskStatus

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
CHECK_DRAINING: Final = "draining"
"""The check of `/readyz` that fails from the first request on; the others are about the store."""


class Shutdown:
    """The requests so far, by signals and by the process that started this one."""

    def __init__(self) -> None:
        self.drains = anyio.Event()
        self.stops = anyio.Event()

    def drain(self) -> None:
        """Have the process drained. Whoever repeats this asks for nothing more, unlike who repeats a signal."""
        self.drains.set()

    def stop(self) -> None:
        """Have the process stopped at once."""
        self.drains.set()
        self.stops.set()

    async def follow_signals(self, task_status: TaskStatus[None]) -> None:
        """Drain at the first of `SIGNALS`, stop at the second."""
        with anyio.open_signal_receiver(*SIGNALS) as signals:
            hear(*SIGNALS)
            task_status.started()
            await anext(signals)
            self.drain()
            await anext(signals)
            self.stop()


def hear(*numbers: signal.Signals) -> None:
    """Let signals come that have been made to wait since the start of the process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
