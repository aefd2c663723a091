"""What a speed measurement needs besides the thing measured: the machine, its load, peak memory, pairs and ratios."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, device and versions that a result was measured with."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": name,
        "cores": usable,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def code_version(folder: Path) -> str | None:
    """Commit that `folder` is at, marked when files differ from it; None outside a repository."""
    arguments = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def command_line() -> str:
    """The command that was given; of an absolute path only the last part, since the rest says nothing elsewhere."""

    def shortened(argument: str) -> str:
        option, equals, value = argument.rpartition("=")
        return option + equals + (Path(value).name if value.startswith("/") else value)

    words = []
    for argument in sys.argv[1:]:
        option, equals, value = argument.partition("=")
        if " " in value:  # several in one, which a shell is to read as one again
            words.append(f'{option}{equals}"{" ".join(map(shortened, value.split()))}"')
        else:
            words.append(shortened(argument))
    return " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *words])


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Load:
    """How busy other processes kept the processor while this one measured.

    `getloadavg` counts this process too and lags by a minute; where /proc/stat is there, the processor time that went
    to others is the time all cores were busy less what this process and its children used.
    """

    def __init__(self) -> None:
        self.average_before = self._average()
        self._started = time.monotonic()
        self._busy = self._busy_seconds()
        self._own = self._own_seconds()

    def report(self) -> dict[str, Any]:
        """Load averages (1, 5, 15 minutes) before and after, and how many cores were busy with others on the mean."""
        elapsed = time.monotonic() - self._started
        busy = self._busy_seconds()
        others = None
        if busy is not None and self._busy is not None and elapsed > 0:
            others = round(max(0.0, busy - self._busy - (self._own_seconds() - self._own)) / elapsed, 3)
        return {
            "average_before": self.average_before,
            "average_after": self._average(),
            "cores_busy_with_others": others,
        }

    @staticmethod
    def _average() -> list[float] | None:
        return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None

    @staticmethod
    def _own_seconds() -> float:
        return sum(os.times()[:4])

    @staticmethod
    def _busy_seconds() -> float | None:
        statistics_file = Path("/proc/stat")
        if not statistics_file.is_file():
            return None
        ticks = [int(field) for field in statistics_file.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]]
        user, nice, system, _idle, _waiting, interrupt, soft_interrupt = ticks
        return (user + nice + system + interrupt + soft_interrupt) / os.sysconf("SC_CLK_TCK")


def resident_peak_mib() -> float:
    """Most memory this process has held at a time, in MiB.

    Linux: VmHWM. `ru_maxrss` says the same, except that a child process starts with its parent's figure.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 1024


def rate(work: Callable[[], int], device: torch.device) -> float:
    """Rows per second of `work`, which returns how many rows it did."""
    synchronise(device)
    start = time.perf_counter()
    rows = work()
    synchronise(device)
    return rows / (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up the seconds spent in functions, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its seconds added under `name`; waits for an accelerator before and after."""

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            synchronise(self.device)
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                synchronise(self.device)
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return wrapped


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def summarise(pairs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Median, minimum and maximum over measured pairs `{"yardstick": rate, "ours": rate}` and of their ratios."""
    ratios = [pair["ours"] / pair["yardstick"] for pair in pairs]
    columns = {"yardstick": [pair["yardstick"] for pair in pairs], "ours": [pair["ours"] for pair in pairs]}
    return {name: spread(values) for name, values in {**columns, "ratio": ratios}.items()}


class Progress:
    """Lines on the standard error: what was measured, how far, and how long it will still take."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._started = time.monotonic()

    def step(self, message: str) -> None:
        """One of `total` parts is done."""
        self.done += 1
        left = (time.monotonic() - self._started) / self.done * (self.total - self.done)
        print(f"{self.what} {self.done}/{self.total}: {message}; about {left:.0f} s left", file=sys.stderr, flush=True)


def say(message: str) -> None:
    """One line on the standard error."""
    print(message, file=sys.stderr, flush=True)
