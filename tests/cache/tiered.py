"""What tests of a tiered store share."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from instgenie_cache import (
    TemplateSize,
    TierName,
)
from instgenie_cache.stores.observer import NoObserver
from instgenie_cache.stores.tiered_lease import TieredLease
from instgenie_cache.stores.tiered_store import TieredStore
from tests.cache.small_stores import (
    RECORD_BYTES,
    FakeTier,
    fill_template,
    read_template,
    values_of,
)

SIZE = TemplateSize(4, 1, RECORD_BYTES)  # four pages
WIDE = TemplateSize(3, 2, 1000)
STORED_BYTES = SIZE.records * SIZE.stored_record_bytes


class Counts(NoObserver):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self.loaded_bytes = 0

    def hit(self, tier: TierName) -> None:
        self.of[f"hit {tier}"] += 1

    def miss(self) -> None:
        self.of["miss"] += 1

    def loaded(self, tier: TierName, num_bytes: int, seconds: float) -> None:
        self.of[f"loaded {tier}"] += 1
        self.loaded_bytes += num_bytes

    def evicted(self, tier: TierName, items: int) -> None:
        self.of[f"evicted {tier}"] += items

    def corrupt(self, tier: TierName) -> None:
        self.of[f"corrupt {tier}"] += 1

    def failed(self, tier: TierName) -> None:
        self.of[f"failed {tier}"] += 1


class SlowTier(FakeTier):
    """A tier whose reads wait until they may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reading, self.may_read = threading.Event(), threading.Event()
        self.may_read.set()

    def read_step(self, *arguments: Any, **options: Any) -> bool:
        self.is_reading.set()
        assert self.may_read.wait(10)
        return super().read_step(*arguments, **options)


@contextmanager
def closing(store: TieredStore) -> Iterator[TieredStore]:
    """Close the store at the end."""
    try:
        yield store
    finally:
        store.close()


def push_out(store: TieredStore, pages: int = 16) -> None:
    """Fill the host tier with something else, so that all that was there is evicted."""
    filler = TemplateSize(pages, 1, RECORD_BYTES)
    fill_template(store, "filler", filler)
    store.flush()
    assert read_template(store, "filler", filler) == values_of(filler)


@contextmanager
def closing_lease(store: TieredStore, template: str) -> Iterator[TieredLease]:
    """A lease of a template that is there."""
    lease = store.lease(template)
    assert lease is not None
    with lease:
        yield lease


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, ten seconds at most."""
    pause = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to pass")
