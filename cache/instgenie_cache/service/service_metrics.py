"""What the service tells Prometheus. Labels are of small fixed sets: never templates, namespaces or clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from instgenie_cache.eviction import PolicyName
from instgenie_cache.tiers.tier import TierName
from instgenie_cache.wire.messages import REQUESTS

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
UNKNOWN = "unknown"


class ServiceMetrics:
    """Counters, gauges and histograms of one service, in a registry of their own. It is a `StoreObserver`.

    Safe to call from several threads.
    """

    def __init__(self, policies: Mapping[TierName, PolicyName] | None = None) -> None:
        """Args:
        policies: by which each tier evicts; tiers that are not named say so by an empty label.
        """
        self._policies = policies or {}
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._hits = Counter(
            "instgenie_cache_hits", "Templates leased, by the coldest tier that they need.", ["tier"], registry=registry
        )
        self._misses = Counter("instgenie_cache_misses", "Templates that were not there.", registry=registry)
        self._loaded_bytes = Counter(
            "instgenie_cache_loaded_bytes", "Bytes that came from a tier into memory.", ["tier"], registry=registry
        )
        self._load_seconds = Histogram(
            "instgenie_cache_load_seconds", "Time to load a step.", ["tier"], buckets=SECONDS, registry=registry
        )
        self._written_bytes = Counter(
            "instgenie_cache_written_bytes", "Bytes written to a tier.", ["tier"], registry=registry
        )
        self._write_seconds = Histogram(
            "instgenie_cache_write_seconds", "Time to write a step.", ["tier"], buckets=SECONDS, registry=registry
        )
        self._evicted = Counter(
            "instgenie_cache_evicted",
            "What made room for others: steps of the host tier, templates of the others.",
            ["tier", "policy"],
            registry=registry,
        )
        self._corrupt = Counter(
            "instgenie_cache_corrupt_records", "Records that were not what was written.", ["tier"], registry=registry
        )
        self._failed = Counter(
            "instgenie_cache_tier_failures", "Reads and writes that a tier failed.", ["tier"], registry=registry
        )
        self._requests = Counter("instgenie_cache_requests", "Requests answered.", ["op", "outcome"], registry=registry)
        self._request_seconds = Histogram(
            "instgenie_cache_request_seconds", "Time to answer.", ["op"], buckets=SECONDS, registry=registry
        )
        self._connections = Gauge("instgenie_cache_connections", "Clients connected.", registry=registry)
        self._refused = Counter(
            "instgenie_cache_refused_connections",
            "Connections that got no further than the handshake.",
            registry=registry,
        )
        self._unanswered = Gauge(
            "instgenie_cache_unanswered_put_bytes", "Payload of puts that are being received.", registry=registry
        )
        Gauge("instgenie_cache_start_time_seconds", "When the service started, since 1970.", registry=registry).set(
            time.time()
        )

    def generate(self) -> bytes:
        """All of them in Prometheus' text format. Takes milliseconds: for a thread."""
        return generate_latest(self._registry)

    def serve(self, port: int) -> tuple[int, Callable[[], None]]:
        """Answer Prometheus over HTTP at the loopback address, from a thread.

        Returns:
            The port, which the system chooses where it is 0, and what ends it.

        Raises:
            OSError: the port cannot be had.
        """
        server, thread = start_http_server(port, addr="127.0.0.1", registry=self._registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, close

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge `instgenie_cache_<name>` that is read when it is asked for, in any thread."""
        Gauge(f"instgenie_cache_{name}", meaning, registry=self._registry).set_function(read)

    # The store's observer.

    def hit(self, tier: TierName) -> None:
        """See `StoreObserver`."""
        self._hits.labels(tier).inc()

    def miss(self) -> None:
        """See `StoreObserver`."""
        self._misses.inc()

    def loaded(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """See `StoreObserver`."""
        self._loaded_bytes.labels(tier).inc(num_bytes)
        self._load_seconds.labels(tier).observe(seconds)

    def written(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """See `StoreObserver`."""
        self._written_bytes.labels(tier).inc(num_bytes)
        self._write_seconds.labels(tier).observe(seconds)

    def evicted(self, tier: TierName, items: int) -> None:
        """See `StoreObserver`."""
        self._evicted.labels(tier, self._policies.get(tier, "")).inc(items)

    def corrupt(self, tier: TierName) -> None:
        """See `StoreObserver`."""
        self._corrupt.labels(tier).inc()

    def failed(self, tier: TierName) -> None:
        """See `StoreObserver`."""
        self._failed.labels(tier).inc()

    # The service's.

    def connected(self) -> None:
        """A client was let in."""
        self._connections.inc()

    def disconnected(self) -> None:
        """A client that was let in is gone."""
        self._connections.dec()

    def refused(self) -> None:
        """A connection was not let in."""
        self._refused.inc()

    def answered(self, op: str, outcome: str, seconds: float) -> None:
        """A request was answered: `outcome` is ok or the kind of the error."""
        op = op if op in REQUESTS else UNKNOWN
        self._requests.labels(op, outcome).inc()
        self._request_seconds.labels(op).observe(seconds)

    def unanswered(self, num_bytes: int) -> None:
        """So many bytes of puts more, or fewer, are on their way."""
        self._unanswered.inc(num_bytes)
