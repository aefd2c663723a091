"""All runs of a suite, several at a time; what is finished is left alone, what was cut goes on.

Every run is a process of its own, so one that fails takes no other with it, and its figures are those of the same run
by hand. A crash loses the epoch at hand of the runs in progress.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.performing import Outcome, Processes, perform
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.training.run_folder import took_lock

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
    if os.name != "posix":  # no such lock there
        yield None
        return
    with (folder / "lock").open("a") as stream:
        if not took_lock(stream.fileno(), _LOCK_PATIENCE):
            raise UserError(f"another benchmark is at work in {folder}; wait for it, or give another --output")
        yield stream.fileno()


class RunQueue:
    """The runs of a suite that are still to be made, in order, and how far they are.

    Attributes:
        ended: how the runs ended that were not finished before.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        tell: Callable[[Progress], None],
        *,
        position: Callable[[PlannedRun], int] | None = None,
        then: Callable[[PlannedRun], Sequence[PlannedRun]] | None = None,
        total: int | None = None,
    ) -> None:
        """Queue what is not finished, and tell how much is.

        Args:
            runs: that can start now.
            tell: called with a :class:`Progress` at the start and after each run.
            position: what starts first, the lowest; None for the order of `runs`.
            then: called with a run that has its result or has failed; the runs that can start only now.
            total: of runs, those that `then` will give included.
        """
        self.ended: list[Outcome] = []
        self._tell, self._position, self._then = tell, position, then
        self._waiting: list[tuple[int, int, PlannedRun]] = []
        self._arrived, self._done = itertools.count(), 0
        self._add(runs)
        self._total = len(self._waiting) + self._done if total is None else total
        self._began = time.monotonic()
        tell(Progress(self._done, self._total, None, None))

    def __len__(self) -> int:
        """Runs that wait."""
        return len(self._waiting)

    @property
    def waiting(self) -> list[PlannedRun]:
        """The runs that wait, in no order."""
        return [run for _, _, run in self._waiting]

    def _add(self, runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            if run.finished:
                self._done += 1
                self._follow(run)
            else:
                number = next(self._arrived)
                place = number if self._position is None else self._position(run)
                heapq.heappush(self._waiting, (place, number, run))

    def _follow(self, run: PlannedRun) -> None:
        if self._then is not None:
            self._add(self._then(run))

    def pop(self) -> PlannedRun:
        """The next run."""
        return heapq.heappop(self._waiting)[2]

    def end(self, run: PlannedRun, outcome: Outcome) -> None:
        """Note how a run ended, and tell it."""
        self.ended.append(outcome)
        self._done += outcome.reason is None
        if not outcome.interrupted:
            self._follow(run)
        rate = (time.monotonic() - self._began) / len(self.ended)
        left = self._total - self._done - sum(one.reason is not None for one in self.ended)
        self._tell(Progress(self._done, self._total, outcome, rate * max(left, 0)))


def run_all(queue: RunQueue, place: Mapping[str, Any], *, at_a_time: int, keep: Sequence[int] = ()) -> list[Outcome]:
    """Make what is missing of all runs.

    Args:
        queue: the runs.
        place: keys that say where and how runs run.
        at_a_time: how many at a time.
        keep: file descriptors that processes keep open.

    Returns:
        how the runs ended that were not finished before.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the processes have ended.
    """
    processes = Processes()
    with terminated_like_interrupted(), ThreadPoolExecutor(at_a_time, thread_name_prefix="run") as pool:
        futures: dict[Future[Outcome], PlannedRun] = {}
        try:
            while queue or futures:
                while queue and len(futures) < at_a_time:
                    run = queue.pop()
                    futures[pool.submit(perform, run, place, processes, keep=keep)] = run
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    queue.end(futures.pop(future), future.result())
        except BaseException:
            processes.stop()
            if wait(futures, timeout=_PATIENCE).not_done:
                processes.stop(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            raise
    return queue.ended


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
