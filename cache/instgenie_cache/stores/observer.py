"""What a store tells whoever counts."""

from __future__ import annotations

from typing import Protocol

from instgenie_cache.tiers.tier import TierName


class StoreObserver(Protocol):
    """Told of what happens, from any thread, with the store's lock held at times: it must be quick and never fail."""

    def hit(self, tier: TierName) -> None:
        """A template was leased; `tier` as in `TemplateLease.tier`."""
        ...

    def miss(self) -> None:
        """A template was asked for that is not there."""
        ...

    def loaded(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """A step, or some blocks of one, came from a tier into memory."""
        ...

    def written(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """A step was written to a tier."""
        ...

    def evicted(self, tier: TierName, items: int) -> None:
        """Steps of the host tier or templates of a lower one made room for others."""
        ...

    def corrupt(self, tier: TierName) -> None:
        """A record or a manifest was not what had been written; its template was dropped."""
        ...

    def failed(self, tier: TierName) -> None:
        """A tier could not be read or written."""
        ...


class NoObserver:
    """Counts nothing."""

    def hit(self, tier: TierName) -> None:
        """See `StoreObserver`."""

    def miss(self) -> None:
        """See `StoreObserver`."""

    def loaded(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """See `StoreObserver`."""

    def written(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        """See `StoreObserver`."""

    def evicted(self, tier: TierName, items: int) -> None:
        """See `StoreObserver`."""

    def corrupt(self, tier: TierName) -> None:
        """See `StoreObserver`."""

    def failed(self, tier: TierName) -> None:
        """See `StoreObserver`."""
