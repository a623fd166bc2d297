"""The job table: SQLite in WAL mode, every commit synced, so that what was stored survives a loss of power.

Every change is one SQL statement that commits by itself. So it is atomic whatever else runs on the connection, a
cancelled caller leaves no transaction open, and an end is written at most once: the statement asks for a state that it
may follow, and says whether it found it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiosqlite

from instgenie_server.jobs.errors import IdempotencyConflictError, JobStoreError, StoreVersionError
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from instgenie_server.jobs.job_rows import COLUMNS, SCHEMA_VERSIONS, from_cursor, from_row, json_text, to_cursor, to_row
from instgenie_server.jobs.queue_order import order_key

_COLUMNS = ", ".join(COLUMNS)
_VALUES = ", ".join("?" for _ in COLUMNS)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a tenant's jobs, newest first; `next_cursor` leads to the older ones, None where there are none."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class KeptJob:
    """What retention needs to know of a job: when it ended, if it did, and the files that it refers to."""

    id: str
    finished_at: float | None
    files: frozenset[str]


class JobStore:
    """All jobs. Every method may raise `JobStoreError`; then nothing has changed.

    Attributes:
        generation: how often the table was opened; larger at every start.
    """

    def __init__(self, database: aiosqlite.Connection, generation: int) -> None:
        self._database = database
        self.generation = generation

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the table, or make it.

        Raises:
            StoreVersionError: it is of a newer version than this program.
        """
        with _mapped(f"opening {path}"):
            database = await aiosqlite.connect(path, isolation_level=None)
            try:
                return cls(database, await _prepare(database, path))
            except BaseException:
                await database.close()
                raise

    async def close(self) -> None:
        """Close the table; later calls raise."""
        with _mapped("closing"):
            await self._database.close()

    async def add(self, job: Job) -> Job:
        """Store a job; it is durable on return.

        Returns:
            The job, or the one that the same tenant stored under the same idempotency key before.

        Raises:
            IdempotencyConflictError: that one was another request.
        """
        while True:
            stored = await self._one(
                f"INSERT INTO jobs ({_COLUMNS}) VALUES ({_VALUES}) "
                f"ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING {_COLUMNS}",
                to_row(job),
            ) or await self.earlier(job)
            if stored is not None:  # else the other one was deleted between the two statements
                return stored

    async def earlier(self, job: Job) -> Job | None:
        """The one that the same tenant stored under the same idempotency key before.

        Raises:
            IdempotencyConflictError: that one was another request.
        """
        if job.idempotency_key is None:
            return None
        stored = await self.by_key(job.tenant, job.idempotency_key)
        if stored is not None and stored.request_digest != job.request_digest:
            raise IdempotencyConflictError(
                f"the idempotency key {job.idempotency_key!r} belongs to another request, {stored.id}"
            )
        return stored

    async def by_key(self, tenant: str, idempotency_key: str) -> Job | None:
        """The tenant's job under that key."""
        return await self._one(
            f"SELECT {_COLUMNS} FROM jobs WHERE tenant = ? AND idempotency_key = ?", (tenant, idempotency_key)
        )

    async def get(self, job_id: str) -> Job | None:
        """The job, whosever it is."""
        return await self._one(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,))

    async def page(self, tenant: str, limit: int, cursor: str | None = None, state: JobState | None = None) -> JobPage:
        """The tenant's jobs after the cursor, newest first, `limit` at most.

        Raises:
            CursorError: the cursor is none of ours.
        """
        where = "tenant = ?"
        values: list[Any] = [tenant]
        if cursor is not None:
            where += " AND (created_at, id) < (?, ?)"
            values += from_cursor(cursor)
        if state is not None:
            where += " AND state = ?"
            values.append(state)
        jobs = await self._all(
            f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?",
            (*values, limit + 1),
        )
        shown = tuple(jobs[:limit])
        return JobPage(shown, to_cursor(shown[-1]) if len(jobs) > limit else None)

    async def queued(self) -> list[Job]:
        """All that wait, the next one first."""
        jobs = await self._all(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' AND finished_at IS NULL", ())
        return sorted(jobs, key=lambda job: order_key(job.id, job.priority, job.created_at))

    async def claim(self, job_id: str, now: float) -> Job | None:
        """Queued -> running, one attempt more; None where it is not queued."""
        return await self._one(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ? "
            f"WHERE id = ? AND state = 'queued' RETURNING {_COLUMNS}",
            (now, job_id),
        )

    async def requeue(self, job_id: str, *, counts: bool = True) -> Job | None:
        """Running -> queued; None where it is not running. The attempt is taken back unless it counts."""
        return await self._one(
            f"UPDATE jobs SET state = 'queued', attempts = attempts - ? "
            f"WHERE id = ? AND state = 'running' RETURNING {_COLUMNS}",
            (0 if counts else 1, job_id),
        )

    async def finish(
        self, job_id: str, end: JobState, now: float, detail: dict[str, Any], result: str | None = None
    ) -> Job | None:
        """Give the job its end; None where it has one. Only a running job can be done, and only that has a result."""
        assert end.is_end
        assert (result is not None) == (end is JobState.DONE)
        return await self._one(
            "UPDATE jobs SET state = ?, finished_at = ?, detail = ?, result = ? "
            f"WHERE id = ? AND finished_at IS NULL AND (? OR state = 'running') RETURNING {_COLUMNS}",
            (end, now, json_text(detail), result, job_id, end is not JobState.DONE),
        )

    async def requeue_unfinished(self, now: float) -> tuple[list[Job], list[Job]]:
        """At start: what ran when the last process stopped is queued again, or fails where it was tried often enough.

        Returns:
            The jobs that were queued again, and those that failed.
        """
        detail = {
            "message": f"the server stopped {MAX_ATTEMPTS} times while it worked on this edit",
            "code": "interrupted",
        }
        failed = await self._all(
            "UPDATE jobs SET state = 'failed', finished_at = ?, detail = ? "
            f"WHERE state = 'running' AND finished_at IS NULL AND attempts >= ? RETURNING {_COLUMNS}",
            (now, json_text(detail), MAX_ATTEMPTS),
        )
        requeued = await self._all(
            f"UPDATE jobs SET state = 'queued' WHERE state = 'running' AND finished_at IS NULL RETURNING {_COLUMNS}",
            (),
        )
        return requeued, failed

    async def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        rows = await self._rows("SELECT state, count(*) FROM jobs GROUP BY state", ())
        return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}

    async def kept(self) -> list[KeptJob]:
        """Every job as retention sees it."""
        rows = await self._rows("SELECT id, finished_at, image, mask, result FROM jobs", ())
        return [KeptJob(row[0], row[1], frozenset(filter(None, row[2:]))) for row in rows]

    async def delete(self, job_ids: Iterable[str]) -> set[str]:
        """Delete those of the jobs that have ended; which ones went."""
        rows = await self._rows(
            "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND finished_at IS NOT NULL RETURNING id",
            (json.dumps(list(job_ids)),),
        )
        return {row[0] for row in rows}

    async def _one(self, statement: str, values: Sequence[Any]) -> Job | None:
        jobs = await self._all(statement, values)
        assert len(jobs) <= 1
        return jobs[0] if jobs else None

    async def _all(self, statement: str, values: Sequence[Any]) -> list[Job]:
        return [from_row(row) for row in await self._rows(statement, values)]

    async def _rows(self, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        with _mapped(statement.split(" ", 1)[0]):
            return list(await self._database.execute_fetchall(statement, values))


async def _prepare(database: aiosqlite.Connection, path: Path) -> int:
    """Bring the table to the newest version; the number of this start."""
    ((version,),) = await database.execute_fetchall("PRAGMA user_version")
    if version > len(SCHEMA_VERSIONS):
        raise StoreVersionError(
            f"{path} is of version {version}, this program knows up to {len(SCHEMA_VERSIONS)}: "
            "it was written by a newer release; use that one, or another data folder"
        )
    ((mode,),) = await database.execute_fetchall("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise JobStoreError(f"{path}: SQLite cannot use a write-ahead log there (its mode is {mode})")
    await database.execute_fetchall("PRAGMA synchronous = FULL")
    for number, script in enumerate(SCHEMA_VERSIONS[version:], version + 1):
        cursor = await database.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
        await cursor.close()
    ((generation,),) = await database.execute_fetchall("UPDATE starts SET count = count + 1 RETURNING count")
    return int(generation)


@contextlib.contextmanager
def _mapped(doing: str) -> Iterator[None]:
    """Foreign errors in our terms."""
    try:
        yield
    except sqlite3.Error as error:
        raise JobStoreError(f"the job table failed at {doing}: {error}") from error
    except ValueError as error:  # aiosqlite's word for a closed connection
        raise JobStoreError(f"the job table is closed ({doing})") from error
