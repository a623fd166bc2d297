"""Jobs as rows: the schema of the job table, and jobs to rows and back."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Sequence
from typing import Any

from instgenie_server.jobs.errors import CursorError
from instgenie_server.jobs.job import Job, JobState

# Each script takes the table one version further; they are never changed, only added to.
SCHEMA_VERSIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        params TEXT NOT NULL,
        image TEXT NOT NULL,
        mask TEXT,
        created_at REAL NOT NULL,
        state TEXT NOT NULL,
        priority INTEGER NOT NULL,
        deadline_at REAL,
        idempotency_key TEXT,
        request_digest TEXT NOT NULL,
        result TEXT,
        attempts INTEGER NOT NULL,
        started_at REAL,
        finished_at REAL,
        detail TEXT NOT NULL,
        predicted_seconds REAL NOT NULL,
        UNIQUE (tenant, idempotency_key),
        CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'expired')),
        CHECK ((finished_at IS NULL) = (state IN ('queued', 'running'))),
        CHECK ((result IS NULL) = (state != 'done'))
    );
    CREATE INDEX jobs_of_tenant ON jobs (tenant, created_at DESC, id DESC);
    CREATE INDEX jobs_unfinished ON jobs (state) WHERE finished_at IS NULL;
    CREATE TABLE starts (count INTEGER NOT NULL);
    INSERT INTO starts VALUES (0);
    """,
)
COLUMNS = tuple(field.name for field in dataclasses.fields(Job))
_JSON_COLUMNS = ("params", "detail")


def to_row(job: Job) -> tuple[Any, ...]:
    """The job's values in the order of `COLUMNS`."""
    return tuple(
        json_text(getattr(job, column)) if column in _JSON_COLUMNS else getattr(job, column) for column in COLUMNS
    )


def from_row(row: Sequence[Any]) -> Job:
    """The job of a row whose columns are `COLUMNS`."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for column in _JSON_COLUMNS:
        values[column] = json.loads(values[column])
    values["state"] = JobState(values["state"])
    return Job(**values)


def json_text(value: dict[str, Any]) -> str:
    """JSON, ASCII only: SQLite refuses text with lone surrogates, which a prompt may have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def to_cursor(job: Job) -> str:
    """Where the page that ends with the job stops. It stays right when the job itself is deleted."""
    return f"{struct.pack('>d', job.created_at).hex()}.{job.id}"


def from_cursor(cursor: str) -> tuple[float, str]:
    """`created_at` and id of the last job of a page.

    Raises:
        CursorError: no page ends there.
    """
    time, dot, job_id = cursor.partition(".")
    try:
        (created_at,) = struct.unpack(">d", bytes.fromhex(time))
    except (ValueError, struct.error):
        dot = ""
    if not dot or not job_id.isascii():
        raise CursorError(f"{cursor[:80]!r} is no cursor of a page of jobs")
    return created_at, job_id
