"""Which jobs are no longer kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from instgenie_server.jobs.job_store import KeptJob
from instgenie_server.settings import RetentionSettings


def to_drop(
    jobs: Sequence[KeptJob], sizes_bytes: Mapping[str, int], settings: RetentionSettings, now: float
) -> list[str]:
    """The jobs to delete, those that ended first before the others: all that ended longer than `age_seconds` ago, then
    as many more as it takes until the rest are `jobs` at most and their files are within `bytes`. Unfinished ones are
    never among them.

    Args:
        sizes_bytes: of the stored files by digest. A file that several jobs refer to counts once, and is freed with the
            last of them.
    """
    references = Counter(digest for job in jobs for digest in job.files)
    total_bytes = sum(sizes_bytes.get(digest, 0) for digest in references)
    ended = sorted((job.finished_at, job.id, job.files) for job in jobs if job.finished_at is not None)
    dropped: list[str] = []
    for finished_at, job_id, files in ended:
        is_young, fits = finished_at >= now - settings.age_seconds, total_bytes <= settings.bytes
        if is_young and fits and len(ended) - len(dropped) <= settings.jobs:
            break
        dropped.append(job_id)
        for digest in files:
            references[digest] -= 1
            if references[digest] == 0:
                total_bytes -= sizes_bytes.get(digest, 0)
    return dropped
