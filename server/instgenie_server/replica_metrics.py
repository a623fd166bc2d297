"""What a replica tells of itself, as families of Prometheus."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge

from instgenie.orders import ReplicaStats

ENDS = ("done", "failed", "cancelled", "expired")
PHASES = ("waiting", "running", "finishing")


class ReplicaMetrics:
    """Gauges of what it does just now, counters of what it and those before it did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._last = ReplicaStats()
        self._up = Gauge("instgenie_replica_up", "1 while there is a replica.", registry=registry)
        self._edits = Gauge(
            "instgenie_replica_edits",
            "Edits on the replica: waiting are in no step yet, finishing have had all of theirs.",
            ["phase"],
            registry=registry,
        )
        self._lanes = Gauge("instgenie_replica_lanes", "Templates that are being recorded.", registry=registry)
        self._step_tokens = Gauge(
            "instgenie_replica_step_tokens", "Image and text tokens that the last step computed.", registry=registry
        )
        self._steps = Counter("instgenie_replica_steps", "Steps, each of the whole batch.", registry=registry)
        self._edit_steps = Counter(
            "instgenie_replica_edit_steps", "Steps of single edits; by steps, the mean batch.", registry=registry
        )
        self._busy_seconds = Counter("instgenie_replica_busy_seconds", "Time that steps took.", registry=registry)
        self._stall_seconds = Counter(
            "instgenie_replica_stall_seconds", "Of it, time spent waiting for records.", registry=registry
        )
        self._ends = Counter("instgenie_replica_ends", "Edits by their end on the replica.", ["end"], registry=registry)
        self._restarts = Gauge(
            "instgenie_replica_restarts", "How often another replica took the place of one.", registry=registry
        )
        for end in ENDS:
            self._ends.labels(end)

    def update(self, stats: ReplicaStats | None, restarts: int) -> None:
        """Take over what the replica says of itself; None: there is none just now."""
        self._up.set(stats is not None)
        self._restarts.set(restarts)
        now = ReplicaStats() if stats is None else stats
        for phase in PHASES:
            self._edits.labels(phase).set(getattr(now, phase))
        self._lanes.set(now.lanes)
        self._step_tokens.set(now.tokens)
        if stats is None:
            return
        grown = _growth(self._last, now)
        self._last = now
        self._steps.inc(grown.steps)
        self._edit_steps.inc(grown.edit_steps)
        self._busy_seconds.inc(grown.busy_seconds)
        self._stall_seconds.inc(grown.stall_seconds)
        for end in ENDS:
            self._ends.labels(end).inc(getattr(grown, end))


def _growth(before: ReplicaStats, now: ReplicaStats) -> ReplicaStats:
    """What was added; all of it where the counts are those of another replica, which began anew."""
    began_anew = now.steps < before.steps or now.busy_seconds < before.busy_seconds
    base = ReplicaStats() if began_anew else before
    return ReplicaStats(
        **{field.name: max(0, getattr(now, field.name) - getattr(base, field.name)) for field in fields(ReplicaStats)}
    )
