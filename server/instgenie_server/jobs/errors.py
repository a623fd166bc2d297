"""Errors of the jobs.

JobError
 +- IdempotencyConflictError  the same key came with another request before
 +- CursorError               a page cursor that no page gave out
 +- JobStoreError             the job table could not be read or written; what was asked for has not happened
 |   +- StoreVersionError     the table was written by a newer version of this program
 |   +- FolderInUseError      another server works on the same folder
 +- PictureFileError          a picture could not be read or written
     +- MissingFileError      it is not there
     +- CorruptFileError      it is there, with other bytes than were written; it was dropped
"""

from __future__ import annotations


class JobError(Exception):
    """Any error that this package raises on purpose."""


class IdempotencyConflictError(JobError):
    """An idempotency key that a different request has used before."""


class CursorError(JobError):
    """A cursor that is none of ours."""


class JobStoreError(JobError):
    """The job table could not be read or written."""


class StoreVersionError(JobStoreError):
    """A job table of a newer version."""


class FolderInUseError(JobStoreError):
    """A data folder that another process works on."""


class PictureFileError(JobError):
    """A picture file could not be read or written."""


class MissingFileError(PictureFileError):
    """A picture file that is not there."""


class CorruptFileError(PictureFileError):
    """A picture file whose bytes have changed."""
