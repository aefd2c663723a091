"""Concurrent queries computed together, by one thread.

While the model computes, queries wait; when it is free, it takes all that wait, up to `max_batch` histories. Those it
has just answered may ask again within a moment: it waits for them `batch_wait_ms` at most, counted from the moment that
it became free, and no longer than until as many queries are there as were when it became free, answered ones among
them. So clients in a hurry share batches, and one client alone never waits for company: its next query is all that is
expected. A query that comes to a model at rest goes at once.

One thread, because a model is not written to be called by two at a time, and torch spreads a product over the cores.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from recbole_diffusion.service.answers import Answer, Outcome
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.queries import Query

logger = logging.getLogger(__name__)

Compute = Callable[[Sequence[Query]], Sequence[Outcome]]


@dataclass(frozen=True)
class _Waiting:
    """A query and the future that its answer goes to; done before that, it is skipped."""

    query: Query
    answer: asyncio.Future[Answer]


class Batcher:
    """Collects queries into batches and has them computed. All methods belong to the event loop's thread.

    Args:
        compute: answers a batch, in the thread of `worker`.
        worker: an executor of one thread.
        limits: `max_batch` and `batch_wait_ms`.
        observe: told the histories and seconds of each batch.
    """

    def __init__(
        self, compute: Compute, worker: ThreadPoolExecutor, limits: Limits, observe: Callable[[int, float], None]
    ) -> None:
        self._compute = compute
        self._worker = worker
        self._max_batch = limits.max_batch
        self._patience = limits.batch_wait_ms / 1000
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._computed: list[_Waiting] = []
        self._enough = 1  # queries that `_wake` is set at
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Queries that wait, those that nobody wants any more left out."""
        return sum(not entry.answer.done() for entry in self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a batch is being computed."""
        return bool(self._computed)

    def start(self) -> None:
        """Begin to work; the event loop runs."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    def submit(self, query: Query) -> asyncio.Future[Answer]:
        """Queue a query. The future may be ended by who waits for it; the query is then skipped if there is time."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(query, answer))
        if len(self._waiting) >= self._enough:
            self._wake.set()
        return answer

    async def drained(self, seconds: float) -> None:
        """Wait until nothing waits and nothing is computed, or for so long."""
        until = time.monotonic() + seconds
        while (self.waiting or self.busy) and time.monotonic() < until:
            await asyncio.sleep(0.01)

    def refuse_all(self, error: Exception) -> int:
        """End every query that is not answered with an error; how many there were."""
        left = [entry for entry in (*self._computed, *self._waiting) if not entry.answer.done()]
        for entry in left:
            entry.answer.set_exception(error)
        return len(left)

    def close(self) -> None:
        """Stop working; a batch that is being computed is not waited for."""
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        """Batch after batch."""
        loop = asyncio.get_running_loop()
        expected, patient_until = 1, loop.time()
        while True:
            await self._until(1)
            if loop.time() < patient_until:
                await self._until(min(expected, self._max_batch), patient_until)
            self._computed = self._take()
            if not self._computed:
                continue
            queries = [entry.query for entry in self._computed]
            began = time.perf_counter()
            try:
                outcomes = await loop.run_in_executor(self._worker, self._compute, queries)
            except Exception as error:
                outcomes = [error] * len(queries)
            self._observe(sum(len(query.histories) for query in queries), time.perf_counter() - began)
            for entry, outcome in zip(self._computed, outcomes, strict=True):
                if entry.answer.done():
                    continue
                if isinstance(outcome, Exception):
                    entry.answer.set_exception(outcome)
                else:
                    entry.answer.set_result(outcome)
            expected = len(self._computed) + len(self._waiting)
            patient_until = loop.time() + self._patience
            self._computed = []

    async def _until(self, queries: int, moment: float | None = None) -> None:
        """Wait for so many queries, or until a moment of the loop's clock."""
        if len(self._waiting) >= queries:
            return
        self._enough = queries
        self._wake.clear()
        timer = None if moment is None else asyncio.get_running_loop().call_at(moment, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _take(self) -> list[_Waiting]:
        """The queries of the next batch: from the front, as many as fit, one at least."""
        taken: list[_Waiting] = []
        histories = 0
        while self._waiting:
            entry = self._waiting[0]
            size = len(entry.query.histories)
            if not entry.answer.done():
                if taken and histories + size > self._max_batch:
                    break
                taken.append(entry)
                histories += size
            self._waiting.popleft()
        return taken
