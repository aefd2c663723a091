"""What a service counts, in Prometheus's text format. Every service has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "recbole_diff"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ABORTED = "aborted"  # in place of a status: the request ended without an answer


class ServiceMetrics:
    """Counters, gauges and histograms of one service; `docs/service.md` lists them.

    Args:
        in_service: how many requests are in the service now.
        waiting: how many of them wait for the model.
        ready: whether requests are taken.
    """

    def __init__(self, in_service: Callable[[], int], waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_requests", "Answered requests by path and HTTP status", ("path", "code"), registry=registry
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "From the head of a request for recommendations to its answer",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            f"{PREFIX}_batch_histories", "Histories that were computed together", buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Histogram(
            f"{PREFIX}_batch_seconds", "Time to compute a batch", buckets=_SECONDS, registry=registry
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "requests_in_service": ("Requests being read, waiting or computed", in_service),
            "queue_length": ("Requests that wait for the model", waiting),
            "ready": ("1 while requests for recommendations are taken", ready),
        }
        for name, (about, value) in gauges.items():
            Gauge(f"{PREFIX}_{name}", about, registry=registry).set_function(value)
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux
        PlatformCollector(registry=registry)

    def request(self, path: str, code: str) -> None:
        """Count a request that ended with an HTTP status, or `ABORTED`."""
        self._requests.labels(path, code).inc()

    def recommended(self, seconds: float) -> None:
        """Count the time of a request for recommendations that was answered with some."""
        self._seconds.observe(seconds)

    def batch(self, histories: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(histories)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)
