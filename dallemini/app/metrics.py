"""Counters for Prometheus; every service has its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from .batcher import Batcher

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What the service counts.

    Args:
        batcher: asked for its numbers when somebody looks.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dallemini_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "dallemini_request_seconds",
            "From a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.pictures = Counter("dallemini_pictures", "Pictures drawn.", registry=self._registry)
        self.given_up = Counter(
            "dallemini_requests_given_up",
            "Requests whose client hung up, or whose time was up.",
            ["reason"],
            registry=self._registry,
        )
        for name, help_text, number in (
            ("drawing", "Pictures drawn now.", lambda: batcher.drawing),
            ("waiting", "Pictures that wait.", lambda: batcher.waiting),
        ):
            gauge = Gauge(f"dallemini_{name}", help_text, registry=self._registry)
            gauge.set_function(number)
        self._registry.register(_Tokens(batcher))

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all in Prometheus's text format."""
        return generate_latest(self._registry)


class _Tokens(Collector):
    """A counter that the batcher keeps."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def collect(self) -> list[CounterMetricFamily]:
        drawn = float(self._batcher.tokens_drawn)
        return [CounterMetricFamily("dallemini_tokens", "Image tokens drawn.", value=drawn)]
