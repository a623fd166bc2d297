"""Deleting picture files that no job refers to."""

from __future__ import annotations

from collections.abc import Iterable

from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.picture_files import PictureFiles


async def delete_unused(files: PictureFiles, store: JobStore, digests: Iterable[str]) -> int:
    """Delete those of the files that no job refers to: asked here, for jobs may have come since; how many went.

    Raises:
        JobStoreError, PictureFileError: not all of them could be.
    """
    candidates = set(digests)
    if not candidates:
        return 0
    with files.condemn(candidates) as condemned:
        for job in await store.kept():
            candidates -= job.files
        return await condemned.delete(candidates)
