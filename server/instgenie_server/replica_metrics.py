"""What replicas tell of themselves, as families of Prometheus."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge

from instgenie.orders import ReplicaStats
from instgenie_server.fleet.standing import Standing

ENDS = ("done", "failed", "cancelled", "expired")
PHASES = ("waiting", "running", "finishing")


class ReplicaMetrics:
    """Gauges of what they do just now, counters of what they and those before them did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._last: dict[str, ReplicaStats] = {}

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"instgenie_replica_{name}", text, ["replica", *labels], registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"instgenie_replica_{name}", text, ["replica", *labels], registry=registry)

        self._up = gauge("up", "1 while it takes edits.")
        self._edits = gauge(
            "edits", "Edits that it has: waiting are in no step yet, finishing have had all of theirs.", "phase"
        )
        self._lanes = gauge("lanes", "Templates that are being recorded.")
        self._step_tokens = gauge("step_tokens", "Image and text tokens that the last step computed.")
        self._steps = counter("steps", "Steps, each of the whole batch.")
        self._edit_steps = counter("edit_steps", "Steps of single edits that were computed; by steps, the mean batch.")
        self._busy_seconds = counter("busy_seconds", "Time that steps took.")
        self._stall_seconds = counter("stall_seconds", "Of it, time spent waiting for records.")
        self._ends = counter("ends", "Edits by their end.", "end")
        self._restarts = gauge("restarts", "How often another process took the place of one that had gone by itself.")
        self._renewals = gauge("renewals", "How often another process took the place of one that was ended for it.")

    def update(self, standing: Standing) -> None:
        """Take over how one of them stands."""
        replica, stats = standing.id, standing.stats
        self._up.labels(replica).set(standing.state == "ready")
        self._restarts.labels(replica).set(standing.restarts)
        self._renewals.labels(replica).set(standing.renewals)
        now = ReplicaStats() if stats is None else stats
        for phase in PHASES:
            self._edits.labels(replica, phase).set(getattr(now, phase))
        self._lanes.labels(replica).set(now.lanes)
        self._step_tokens.labels(replica).set(now.tokens)
        last = self._last.get(replica, ReplicaStats())
        grown = ReplicaStats() if stats is None else _growth(last, stats)
        self._last[replica] = stats or last
        self._steps.labels(replica).inc(grown.steps)
        self._edit_steps.labels(replica).inc(grown.edit_steps)
        self._busy_seconds.labels(replica).inc(grown.busy_seconds)
        self._stall_seconds.labels(replica).inc(grown.stall_seconds)
        for end in ENDS:
            self._ends.labels(replica, end).inc(getattr(grown, end))


def _growth(before: ReplicaStats, now: ReplicaStats) -> ReplicaStats:
    """What was added; all of it where the counts are those of another replica, which began anew."""
    began_anew = now.steps < before.steps or now.busy_seconds < before.busy_seconds
    base = ReplicaStats() if began_anew else before
    return ReplicaStats(
        **{field.name: max(0, getattr(now, field.name) - getattr(base, field.name)) for field in fields(ReplicaStats)}
    )
