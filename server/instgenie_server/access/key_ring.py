"""The keys of a running server: the key file's, as it is now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from instgenie_server.access.key_file import KeyFile, Stamp
from instgenie_server.access.keys import StoredKey
from instgenie_server.operator_error import KeyFileError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_AGE_SECONDS = 1.0


class KeyRing:
    """Keys by id, looked at again at most once in `MAX_AGE_SECONDS`, so that a revoked key soon stops to work.

    The last good keys stay where the file is damaged: one bad write must not lock everybody out.
    """

    def __init__(self, file: KeyFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._keys: Mapping[str, StoredKey] = {}
        self._stamp: Stamp | None = None
        self._checked_at: float | None = None
        self._trouble: str | None = None
        self._lock = asyncio.Lock()

    async def keys(self, *, now: bool = False) -> Mapping[str, StoredKey]:
        """All keys; with `now` the file is looked at in any case, which takes a thread."""
        if now or self._is_old():
            async with self._lock:
                if now or self._is_old():  # another request may have looked meanwhile
                    await asyncio.to_thread(self._refresh)
                    self._checked_at = self._clock()
        return self._keys

    def _is_old(self) -> bool:
        return self._checked_at is None or self._clock() - self._checked_at >= MAX_AGE_SECONDS

    def _refresh(self) -> None:
        try:
            stamp = self._file.stamp()  # before reading: what changes in between is read again
            if stamp == self._stamp:
                self._trouble = None
                return
            self._keys = self._file.read()
        except KeyFileError as error:
            if str(error) != self._trouble:  # once, not at every look
                log.error("key file is unusable, the last keys stay in force", error=str(error))
            self._trouble = str(error)
            return
        self._stamp = stamp  # not where reading failed: that may pass without a change of the file
        self._trouble = None
        log.info("key file read", keys=len(self._keys))
