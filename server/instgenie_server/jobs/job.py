"""A job: an edit that was accepted and will get exactly one end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """Where a job stands; the last four are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_end(self) -> bool:
        """Whether nothing follows."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted edit as it is stored.

    Attributes:
        id: `edit-` and 26 characters that sort by time of acceptance.
        tenant: whose it is; others cannot see it.
        params: everything of the order but its pictures, JSON; the seed is chosen before it is stored.
        image, mask: digests of the stored uploads; mask None: the image's own alpha.
        result: digest of the stored file.
        attempts: how often it was started; it is never started more than `MAX_ATTEMPTS` times. An attempt that an
            orderly shutdown cut short is not counted.
        created_at ...: seconds since 1970; started_at is that of the last attempt.
        detail: of the end: timings of a done job, message and code of any other.
        predicted_seconds: how long it keeps the replica busy, as foreseen when it was accepted.
    """

    id: str
    tenant: str
    params: dict[str, Any]
    image: str
    mask: str | None
    created_at: float
    state: JobState = JobState.QUEUED
    priority: int = 0
    deadline_at: float | None = None
    idempotency_key: str | None = None
    request_digest: str = ""
    result: str | None = None
    attempts: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    predicted_seconds: float = 0.0


MAX_ATTEMPTS = 3
