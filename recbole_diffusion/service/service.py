"""A service: a Recommender that is loading, ready or stopping, and the queries it has taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.service.answers import Answer, Outcome, answer_queries, facts_of
from recbole_diffusion.service.batching import Batcher
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.metrics import ServiceMetrics
from recbole_diffusion.service.queries import Query
from recbole_diffusion.service.refusals import Refusal, later

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.recommender import Recommender

logger = logging.getLogger(__name__)

LOADING, READY, STOPPING, FAILED = "loading", "ready", "stopping", "failed"
_REASONS = {
    LOADING: "the model is being loaded; ask again in a moment",
    STOPPING: "the service is stopping",
    FAILED: "the checkpoint could not be loaded; the service's log says why",
}


class Service:
    """Takes queries, has them answered in batches by one thread, and stops without losing one.

    Args:
        recommender: one that is loaded, or a function that loads it, in the thread that it will work in.
        limits: what is taken at most.

    Attributes:
        state: `loading`, `ready`, `stopping` or `failed`.
        facts: what is served, once it is loaded.
        in_service: requests that are being read, wait or are computed.
    """

    def __init__(self, recommender: Recommender | Callable[[], Recommender], limits: Limits) -> None:
        self.limits = limits
        self.facts: dict[str, Any] = {}
        self.in_service = 0
        self._load = recommender
        self._recommender: Recommender | None = None
        self._failure: BaseException | None = None
        self._loaded = asyncio.Event()
        self._watched = False
        self._stopping = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recommender")
        self.metrics = ServiceMetrics(
            lambda: self.in_service, lambda: self._batcher.waiting, lambda: self.state == READY
        )
        self._batcher = Batcher(self._answer, self._worker, limits, self.metrics.batch)
        self._loading: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """`loading`, `ready`, `stopping` or `failed`."""
        if self._stopping:
            return STOPPING
        if self._failure is not None:
            return FAILED
        return LOADING if self._recommender is None else READY

    @property
    def working(self) -> bool:
        """Whether the thread loads or computes at the moment."""
        return self._batcher.busy or (self._loading is not None and not self._loading.done())

    # queries ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place in the service, for the time of a request.

        Raises:
            Refusal: there is none, or the service is not ready.
        """
        self.check_ready()
        if self.in_service >= self.limits.max_queue:
            raise later(f"{self.in_service} requests are in the service, as many as it takes at a time")
        self.in_service += 1
        try:
            yield
        finally:
            self.in_service -= 1

    def check_ready(self) -> None:
        """Refuse a query that would not be answered.

        Raises:
            Refusal: the service is loading or stopping.
        """
        if self.state != READY:
            raise later(_REASONS[self.state])

    def submit(self, query: Query) -> asyncio.Future[Answer]:
        """Queue a query; the future ends with its answer, a UserError, a Refusal or a bug's exception.

        Raises:
            Refusal: the service is loading or stopping.
        """
        self.check_ready()
        answer = self._batcher.submit(query)
        seconds = self.limits.request_timeout
        timer = asyncio.get_running_loop().call_later(seconds, _time_out, answer, seconds)
        answer.add_done_callback(lambda _: timer.cancel())
        return answer

    def _answer(self, queries: Sequence[Query]) -> list[Outcome]:
        """Answer a batch; in the worker's thread."""
        if self._recommender is None:
            raise RuntimeError("queries were taken before the model was there")
        return answer_queries(self._recommender, queries)

    # life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load and to work; the event loop runs."""
        self._batcher.start()
        self._loading = asyncio.get_running_loop().create_task(self._make_ready())

    async def _make_ready(self) -> None:
        """Load, and rank once, so that the first query finds everything warm."""

        def load() -> Recommender:
            loaded = self._load() if callable(self._load) else self._load
            answer_queries(loaded, [Query([[str(loaded.tokens[-1])]], k=1)])
            return loaded

        try:
            self._recommender = await asyncio.get_running_loop().run_in_executor(self._worker, load)
            self.facts = facts_of(self._recommender)
        except Exception as error:
            self._failure = error
            if not self._watched:
                logger.error("the checkpoint could not be loaded: %s", error, exc_info=not isinstance(error, UserError))
        finally:
            self._loaded.set()

    async def loaded(self) -> None:
        """Wait until the model is there; who does so is told what went wrong, and the log is not.

        Raises:
            UserError: it cannot be loaded; or whatever else loading raised.
        """
        self._watched = True
        await self._loaded.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> int:
        """Take no more, finish what was taken within `stop_timeout`.

        Returns:
            how many queries were not answered in time, and refused.
        """
        self._stopping = True
        await self._batcher.drained(self.limits.stop_timeout)
        return self._batcher.refuse_all(later(_REASONS[STOPPING]))

    def close(self) -> None:
        """End the work; what is computed at the moment is not waited for."""
        self._stopping = True
        self._batcher.refuse_all(later(_REASONS[STOPPING]))
        self._batcher.close()
        self._worker.shutdown(wait=False, cancel_futures=True)


def _time_out(answer: asyncio.Future[Answer], seconds: float) -> None:
    if not answer.done():
        answer.set_exception(Refusal(504, f"no answer within {seconds:g} s; ask again later, or for less"))
