"""The order in which templates come to the disk and go from it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from instgenie_cache import StoreFullError
from tests.cache.small_stores import FakeTier, fill_template, read_template, record_of, tiered_store, values_of
from tests.cache.tiered import SIZE, STORED_BYTES, closing, closing_lease, push_out


def test_writer_that_failed_leaves_who_began_anew_alone() -> None:
    with closing(tiered_store(disk := FakeTier())) as store:
        disk.full_after = 0
        failed = store.create("a", SIZE)
        failed.put(0, 0, record_of(1))
        store.flush()
        disk.full_after = None
        with store.create("a", SIZE) as writer:
            for step in range(SIZE.steps):
                writer.put(step, 0, record_of(5 + step))
            store.flush()
            with pytest.raises(StoreFullError, match="the disk is full"):
                failed.put(1, 0, record_of(2))
            writer.commit()
        store.flush()
        assert "a" in disk.committed
        push_out(store)
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=5)


@pytest.mark.parametrize("is_leased", [True, False])
def test_room_that_a_deletion_makes_is_used(is_leased: bool) -> None:
    disk = FakeTier(2 * STORED_BYTES)
    with closing(tiered_store(disk)) as store:
        for name in "ac":
            fill_template(store, name, SIZE)
        store.flush()
        with closing_lease(store, "c") if is_leased else nullcontext(), store.create("b", SIZE) as writer:
            with store._state.changed:  # the step is in the queue before the deletion
                writer.put(0, 0, record_of(0))
                store.delete("a")
            for step in range(1, SIZE.steps):
                writer.put(step, 0, record_of(step))
            writer.commit()
            store.flush()
        assert disk.committed.keys() == {"b", "c"}


def test_deletion_that_failed_is_made_up_for_at_the_end() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        disk.undeletable = True
        store.delete("a")
        store.flush()
        disk.undeletable = False
    with closing(tiered_store(FakeTier(content=disk))) as store:
        assert not store.holds("a")
