"""All runs of a suite, several at a time; what is finished is left alone, what was cut goes on.

Every run is a process of its own, so one that fails takes no other with it, and its figures are those of the same run
by hand. A crash loses the epoch at hand of the runs in progress.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.performing import Outcome, Processes, perform
from recbole_diffusion.suites.plan import PlannedRun

_LOCK_PATIENCE = 5.0  # seconds in which the runs of a process that was killed end
_PATIENCE = 120.0  # seconds that processes get to end after they were told to


@dataclass(frozen=True)
class Progress:
    """How far a suite is.

    Attributes:
        done: runs that are finished, those found finished included.
        total: runs of the suite.
        outcome: of the run that has just ended; None at the start.
        remaining: seconds that are likely left; None when nothing is known.
    """

    done: int
    total: int
    outcome: Outcome | None
    remaining: float | None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Keep a suite's folder for this process and those it starts; the descriptor that they keep open.

    Raises:
        UserError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # a system without it has no such lock
        yield None
        return
    with (folder / "lock").open("a") as stream:
        end = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise UserError(
                        f"another benchmark is at work in {folder}; wait for it, or give another --output"
                    ) from None
                time.sleep(0.1)
        yield stream.fileno()


def run_all(
    runs: Sequence[PlannedRun],
    place: Mapping[str, Any],
    *,
    at_a_time: int,
    tell: Any,
    keep: Sequence[int] = (),
) -> list[Outcome]:
    """Make what is missing of all runs.

    Args:
        runs: in the order in which they start.
        place: keys that say where and how runs run.
        at_a_time: how many at a time.
        tell: called with a :class:`Progress` at the start and after each run.
        keep: file descriptors that processes keep open.

    Returns:
        how the runs ended that were not finished before.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the processes have ended.
    """
    todo = [run for run in runs if not run.finished]
    done, ended = len(runs) - len(todo), []
    tell(Progress(done, len(runs), None, None))
    processes = Processes()
    began = time.monotonic()
    with terminated_like_interrupted(), ThreadPoolExecutor(at_a_time, thread_name_prefix="run") as pool:
        futures: set[Future[Outcome]] = {pool.submit(perform, run, place, processes, keep=keep) for run in todo}
        try:
            while futures:
                finished, futures = wait(futures, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    ended.append(outcome)
                    done += outcome.reason is None
                    rate = (time.monotonic() - began) / len(ended)
                    tell(Progress(done, len(runs), outcome, rate * len(futures)))
        except BaseException:
            for future in futures:
                future.cancel()
            processes.stop()
            if wait(futures, timeout=_PATIENCE).not_done:
                processes.stop(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            raise
    return ended


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM as Ctrl-C, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
