"""A tier whose reads are as slow as a disk of a given bandwidth would make them, for measuring what loads cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.tier import ColdTier, TierName

_BURST_SECONDS = 0.004  # of bytes that an idle tier hands out at once: makes up for what sleeps overshoot
_TURN_SECONDS = 0.002  # of bytes that one of several readers gets at a time


class ThrottledTier:
    """A `ColdTier` around another one, which it owns. Writes are as fast as that is.

    All readers share the bandwidth, in turns. The other tier's own time counts: a read takes that or the time that its
    bytes take, whichever is longer. One that finds nothing, or fails, takes no time of its own.
    """

    def __init__(
        self,
        tier: ColdTier,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Args:
        bytes_per_second: of records with their headers, more than 0.
        """
        self._tier, self._clock, self._sleep = tier, clock, sleep
        self._bytes_per_second = bytes_per_second
        self._turn_bytes = max(1, int(bytes_per_second * _TURN_SECONDS))
        self._lock = threading.Lock()
        self._passed_at = clock()  # when what was read so far has passed

    @property
    def name(self) -> TierName:
        """See `ColdTier`."""
        return self._tier.name

    @property
    def is_shared(self) -> bool:
        """See `ColdTier`."""
        return self._tier.is_shared

    @property
    def budget_bytes(self) -> int | None:
        """See `ColdTier`."""
        return self._tier.budget_bytes

    @property
    def used_bytes(self) -> int:
        """See `ColdTier`."""
        return self._tier.used_bytes

    @property
    def fault(self) -> str | None:
        """See `ColdTier`."""
        return self._tier.fault

    def footprint_bytes(self, size: TemplateSize, note_bytes: int = 0) -> int:
        """See `ColdTier`."""
        return self._tier.footprint_bytes(size, note_bytes)

    def manifests(self) -> Iterable[Manifest]:
        """See `ColdTier`."""
        return self._tier.manifests()

    def manifest(self, template: str) -> Manifest | None:
        """See `ColdTier`."""
        return self._tier.manifest(template)

    def write_steps(
        self, template: str, size: TemplateSize, steps: Sequence[tuple[int, Slab]], writing: str = ""
    ) -> None:
        """See `ColdTier`."""
        self._tier.write_steps(template, size, steps, writing)

    def commit(self, manifest: Manifest) -> None:
        """See `ColdTier`."""
        self._tier.commit(manifest)

    def read_step(
        self,
        template: str,
        size: TemplateSize,
        step: int,
        slab: Slab,
        blocks: range | None = None,
        writing: str = "",
    ) -> bool:
        """See `ColdTier`. Sleeps in the caller's thread."""
        began = self._clock()
        is_found = self._tier.read_step(template, size, step, slab, blocks, writing)
        if is_found:
            self._wait(size.offset(size.blocks if blocks is None else len(blocks)), began)
        return is_found

    def delete(self, template: str) -> None:
        """See `ColdTier`."""
        self._tier.delete(template)

    def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """See `ColdTier`."""
        return self._tier.sweep(should_stop)

    def close(self) -> None:
        """See `ColdTier`."""
        self._tier.close()

    def _wait(self, num_bytes: int, began: float) -> None:
        """Return once so many bytes have passed, from `began` on, those of other readers between them."""
        for start in range(0, num_bytes, self._turn_bytes):
            turn_bytes = min(self._turn_bytes, num_bytes - start)
            with self._lock:
                starts_at = max(self._passed_at, began - _BURST_SECONDS)
                passed_at = self._passed_at = starts_at + turn_bytes / self._bytes_per_second
            delay = passed_at - self._clock()
            if delay > 0:
                self._sleep(delay)
