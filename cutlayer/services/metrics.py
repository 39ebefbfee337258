"""What every service measures, under one set of names, in a registry of its own.

metrics = Metrics.make("split")
metrics.step_seconds.labels("forward").observe(0.004)
metrics.message_bytes.labels("in", "activations").inc(4096)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cutlayer.version import __version__

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROUND_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one service; a service leaves those alone that it has no use for."""

    registry: CollectorRegistry
    step_seconds: Histogram
    """Seconds of one step or request of the data plane, by ``kind`` (forward, backward, train, upload, ...)."""
    message_bytes: Counter
    """Bytes of messages, by ``direction`` (in, out: seen from this service) and ``kind`` of message."""
    queue_depth: Gauge
    """Requests that wait for the model; what the autoscaler looks at."""
    graph_hits: Counter
    """Backwards whose graph was still there."""
    graph_misses: Counter
    """Backwards that had to run the forward again."""
    ledger_bytes: Gauge
    """Bytes of forwards, deltas and gradients that are kept for updates to come."""
    round_seconds: Histogram
    """Seconds of a whole round."""
    requests: Counter
    """HTTP requests, by ``route``, ``method`` and ``status``."""
    request_seconds: Histogram
    """Seconds of an HTTP request until its last byte, by ``route``; long-polls and event streams wait on purpose."""

    @classmethod
    def make(cls, service: str) -> Metrics:
        """Return new metrics in a new registry, which also tells about the process and the version."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("cutlayer_build", "What runs here.", registry=registry).info({"version": __version__, "service": service})
        return cls(
            registry,
            step_seconds=Histogram(
                "cutlayer_step_seconds", "Seconds of one step.", ["kind"], buckets=STEP_BUCKETS, registry=registry
            ),
            message_bytes=Counter(
                "cutlayer_message_bytes", "Bytes of messages.", ["direction", "kind"], registry=registry
            ),
            queue_depth=Gauge("cutlayer_queue_depth", "Requests that wait for the model.", registry=registry),
            graph_hits=Counter("cutlayer_graph_cache_hits", "Backwards with a kept graph.", registry=registry),
            graph_misses=Counter("cutlayer_graph_cache_misses", "Backwards that recompute.", registry=registry),
            ledger_bytes=Gauge("cutlayer_ledger_bytes", "Bytes kept for updates to come.", registry=registry),
            round_seconds=Histogram(
                "cutlayer_round_seconds", "Seconds of a round.", buckets=ROUND_BUCKETS, registry=registry
            ),
            requests=Counter("cutlayer_requests", "HTTP requests.", ["route", "method", "status"], registry=registry),
            request_seconds=Histogram(
                "cutlayer_request_seconds", "Seconds of a request.", ["route"], buckets=STEP_BUCKETS, registry=registry
            ),
        )

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Measure what happens inside as one step of this kind, also when it fails."""
        start = perf_counter()
        try:
            yield
        finally:
            self.step_seconds.labels(kind).observe(perf_counter() - start)

    def text(self) -> bytes:
        """Return everything in the form that Prometheus reads."""
        return generate_latest(self.registry)
