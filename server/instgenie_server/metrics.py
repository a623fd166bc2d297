"""What the server tells Prometheus. Labels are of small fixed sets: route templates, never paths, ids or tenants."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from instgenie import __version__
from instgenie.orders import PhaseTimings
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.standing import Standing
from instgenie_server.jobs.job import JobState
from instgenie_server.replica_metrics import ReplicaMetrics

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DECISION_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1)
EDITS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
BYTES = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

EditFailure = Literal["failed", "cancelled", "expired", "invalid"]


class Metrics:
    """Counters and histograms of one server, in a registry of their own.

    Attributes:
        edits_done: how many edits were made.
    """

    def __init__(self) -> None:
        self.edits_done = 0
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("instgenie_start_time_seconds", "When the server started, since 1970.", registry=registry).set(
            time.time()
        )
        Gauge("instgenie_info", "1; what is running.", ["version"], registry=registry).labels(__version__).set(1)
        self._requests = Counter(
            "instgenie_http_requests",
            "Requests answered; 499: the client left.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "instgenie_http_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._in_flight = Gauge("instgenie_http_in_flight", "Requests being answered.", registry=registry)
        self._upload_bytes = Histogram(
            "instgenie_upload_bytes", "Size of request bodies with pictures.", buckets=BYTES, registry=registry
        )
        self._rejected = Counter(
            "instgenie_rejected",
            "Requests refused for what they are, not what they ask.",
            ["reason"],
            registry=registry,
        )
        self._queue_seconds = Gauge(
            "instgenie_queue_seconds", "Predicted work that is accepted and not done.", registry=registry
        )
        self._jobs = Gauge("instgenie_jobs", "Asynchronous edits that are stored.", ["state"], registry=registry)
        self._edits = Counter(
            "instgenie_edits",
            "Edits that ended; cache is none where none was made, tier where the cache was no hit, invalid is the "
            "client's fault, expired could not be done by its deadline.",
            ["outcome", "cache", "tier"],
            registry=registry,
        )
        self._lost_attempts = Counter(
            "instgenie_edit_attempts_lost",
            "Attempts at edits that came to nothing, since the replica ended or failed: others may follow.",
            registry=registry,
        )
        self._phase_seconds = Histogram(
            "instgenie_phase_seconds", "Time of edits by phase.", ["phase"], buckets=SECONDS, registry=registry
        )
        self._step_seconds = Histogram(
            "instgenie_step_seconds", "Time between two steps of an edit.", buckets=SECONDS, registry=registry
        )
        self._active_share = Histogram(
            "instgenie_tokens_active_share",
            "Share of the tokens that an edit computes.",
            buckets=SHARES,
            registry=registry,
        )
        self._stall_seconds = Histogram(
            "instgenie_stall_seconds",
            "Time of an edit's steps that was spent waiting for records.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_edits = Histogram(
            "instgenie_batch_edits",
            "Edits that shared a step with this one, itself included, on average over its steps.",
            buckets=EDITS,
            registry=registry,
        )
        self._decision_seconds = Histogram(
            "instgenie_balancer_decision_seconds",
            "Time to decide where an edit goes.",
            ["policy"],
            buckets=DECISION_SECONDS,
            registry=registry,
        )
        self._sent = Counter(
            "instgenie_balancer_edits",
            "Edits sent to a replica, by where their template was for it, as far as was known; dense is computed on "
            "all tokens.",
            ["replica", "warmth"],
            registry=registry,
        )
        self._replicas = ReplicaMetrics(registry)

    def exposition(self) -> tuple[str, bytes]:
        """Content type and body of a scrape. Reads /proc and takes milliseconds: for a thread."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is a template."""
        self._requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def set_in_flight(self, count: int) -> None:
        """Requests that are being answered."""
        self._in_flight.set(count)

    def observe_upload(self, num_bytes: int) -> None:
        """A form with pictures was read."""
        self._upload_bytes.observe(num_bytes)

    def count_rejected(self, reason: str) -> None:
        """A request was refused; the reason is the `code` of its error."""
        self._rejected.labels(reason).inc()

    def set_queue_seconds(self, seconds: float) -> None:
        """Predicted work that is accepted and not done."""
        self._queue_seconds.set(seconds)

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """Jobs by state; those that are not named are 0."""
        for state in JobState:
            self._jobs.labels(state.value).set(counts.get(state.value, 0))

    def set_replicas(self, standings: Sequence[Standing]) -> None:
        """How the replicas stand."""
        for standing in standings:
            self._replicas.update(standing)

    def observe_decision(self, decision: Decision) -> None:
        """An edit was sent to a replica."""
        self._decision_seconds.labels(decision.policy).observe(decision.seconds)
        self._sent.labels(decision.replica, decision.warmth.name.lower()).inc()

    def observe_step(self, seconds: float) -> None:
        """An edit has made a step, so long after the one before."""
        self._step_seconds.observe(seconds)

    def observe_edit(self, timings: PhaseTimings) -> None:
        """An edit was made."""
        self.edits_done += 1
        self._edits.labels("done", timings.cache, timings.tier or "none").inc()
        phases = {
            "queue": timings.queue_ms,
            "encode": timings.encode_ms,
            "record": timings.record_ms,
            "denoise": timings.denoise_ms,
            "decode": timings.decode_ms,
        }
        for phase, milliseconds in phases.items():
            self._phase_seconds.labels(phase).observe(milliseconds / 1000)
        self._stall_seconds.observe(timings.stall_ms / 1000)
        self._batch_edits.observe(timings.batch)
        if timings.tokens_total:
            self._active_share.observe(timings.tokens_active / timings.tokens_total)

    def count_edit_failure(self, outcome: EditFailure) -> None:
        """An edit ended without a result."""
        self._edits.labels(outcome, "none", "none").inc()

    def count_lost_attempt(self) -> None:
        """An attempt at an edit came to nothing, through no fault of the edit's."""
        self._lost_attempts.inc()
