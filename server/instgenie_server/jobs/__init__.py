"""Asynchronous edits: stored durably, run in order, watched by events, kept for a while."""

from instgenie_server.jobs.dispatcher import DispatcherSettings, MakeOrder
from instgenie_server.jobs.errors import (
    CorruptFileError,
    CursorError,
    FolderInUseError,
    IdempotencyConflictError,
    JobError,
    JobStoreError,
    MissingFileError,
    PictureFileError,
    StoreVersionError,
)
from instgenie_server.jobs.event_log import END_ID, EventKind, JobEvent, parse_event_id
from instgenie_server.jobs.folder_lock import locked_folder
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from instgenie_server.jobs.job_id import new_job_id
from instgenie_server.jobs.job_store import JobPage
from instgenie_server.jobs.jobs import Jobs, open_jobs

__all__ = [
    "END_ID",
    "MAX_ATTEMPTS",
    "CorruptFileError",
    "CursorError",
    "DispatcherSettings",
    "EventKind",
    "FolderInUseError",
    "IdempotencyConflictError",
    "Job",
    "JobError",
    "JobEvent",
    "JobPage",
    "JobState",
    "JobStoreError",
    "Jobs",
    "MakeOrder",
    "MissingFileError",
    "PictureFileError",
    "StoreVersionError",
    "locked_folder",
    "new_job_id",
    "open_jobs",
    "parse_event_id",
]
