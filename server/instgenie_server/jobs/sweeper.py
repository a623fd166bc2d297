"""Deletes jobs that are no longer kept, and files that no job refers to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.picture_files import PictureFiles
from instgenie_server.jobs.retention import to_drop
from instgenie_server.jobs.unused_files import delete_unused
from instgenie_server.settings import RetentionSettings

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep deleted."""

    jobs: int
    files: int


class Sweeper:
    """Sweeps once in a while."""

    def __init__(
        self,
        store: JobStore,
        files: PictureFiles,
        events: JobEvents,
        settings: RetentionSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._files, self._events = store, files, events
        self._settings, self._now = settings, now

    async def run(self) -> None:
        """Sweep now, and then again and again."""
        while True:
            try:
                swept = await self.sweep()
            except Exception:  # whatever it was, the next one may get through
                log.exception("a sweep failed, the next one comes in %g seconds", self._settings.sweep_seconds)
            else:
                if swept.jobs or swept.files:
                    log.info("swept %d jobs and %d files", swept.jobs, swept.files)
            await asyncio.sleep(self._settings.sweep_seconds)

    async def sweep(self) -> Swept:
        """Delete what is due now.

        Orphans, which a crash between a file and its row leaves behind, go first: that takes no space in the table,
        which a full disk would refuse. They go when they are `ORPHAN_SECONDS` old, so that nobody who puts a file back
        by hand is raced.
        """
        now = self._now()
        stored, kept = await self._files.list(), await self._store.kept()
        in_use = frozenset[str]().union(*(job.files for job in kept))
        orphans = [digest for digest, file in stored.items() if file.written_at < now - ORPHAN_SECONDS]
        num_files = await delete_unused(
            self._files, self._store, (digest for digest in orphans if digest not in in_use)
        )
        sizes_bytes = {digest: file.num_bytes for digest, file in stored.items()}
        due = await asyncio.to_thread(to_drop, kept, sizes_bytes, self._settings, now)
        dropped = await self._store.delete(due) if due else set()
        for job_id in dropped:
            self._events.discard(job_id)
        freed = frozenset[str]().union(*(job.files for job in kept if job.id in dropped))
        num_files += await delete_unused(self._files, self._store, freed & stored.keys())
        return Swept(len(dropped), num_files)
