"""A store, and sessions over it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instgenie_cache.stores.tiered_store import TieredStore
from tests.cache.session_driver import Side
from tests.cache.small_stores import tiered_store


@pytest.fixture
def store() -> Iterator[TieredStore]:
    store = tiered_store()
    yield store
    store.close()


@pytest.fixture
def side(store: TieredStore) -> Iterator[Side]:
    side = Side(store)
    yield side
    side.close()
