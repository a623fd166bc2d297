"""Errors of the job package as replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from instgenie_server.api_error import ApiError, invalid, unavailable
from instgenie_server.jobs import (
    CorruptFileError,
    CursorError,
    IdempotencyConflictError,
    JobStoreError,
    MissingFileError,
    PictureFileError,
)

STORAGE_RETRY_SECONDS = 5.0


@contextmanager
def job_errors() -> Iterator[None]:
    """Raise `ApiError` for what the block raises, but for files that are gone for good."""
    try:
        yield
    except IdempotencyConflictError as error:
        message = "Idempotency-Key: was used before, with another request"
        raise ApiError(422, message, "invalid_request_error", "Idempotency-Key", "idempotency_conflict") from error
    except CursorError as error:
        raise invalid("after: is no cursor of a page", "after") from error
    except (MissingFileError, CorruptFileError):
        raise
    except (JobStoreError, PictureFileError) as error:
        raise unavailable("jobs cannot be stored or read at the moment", STORAGE_RETRY_SECONDS) from error
