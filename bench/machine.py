"""What was measured where: the hardware and the versions, without names of hosts or paths."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("anyio", "msgspec", "uvloop", "websockets")


def describe() -> dict[str, str]:
    """Return what a reader needs to compare the figures with others."""
    facts = {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for name in LIBRARIES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return facts


class Others:
    """What other processes, and the hypervisor, take of the processors from now on."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._begin_busy_s = self._busy_s()

    def used(self) -> float:
        """Return their part of all processor time so far; those that were measured must have ended."""
        available_s = (time.monotonic() - self._begin_s) * (os.cpu_count() or 1)
        return max(0, self._busy_s() - self._begin_busy_s) / available_s

    @staticmethod
    def _busy_s() -> float:
        """Return how long processors were busy, but not with this process and those it started."""
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        ticks = dict(zip(names, map(int, fields), strict=False))
        busy_ticks = sum(ticks.values()) - ticks["idle"] - ticks["iowait"]
        return busy_ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def uses_uvloop() -> bool:
    """Whether the event loop is uvloop, as the server decides it."""
    return find_spec("uvloop") is not None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
