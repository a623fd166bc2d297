"""Notes, and templates of fewer steps than were announced, in a store with tiers below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie_cache import RecordStore, TemplateSize
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.tier import ColdTier
from tests.cache.small_stores import (
    RECORD_BYTES,
    FakeTier,
    fill_template,
    read_template,
    record_of,
    tiered_store,
    values_of,
)
from tests.cache.tiered import closing

ANNOUNCED = TemplateSize(steps=6, blocks=2, record_bytes=RECORD_BYTES)
SIZE = TemplateSize(steps=2, blocks=2, record_bytes=RECORD_BYTES)


def write(store: RecordStore, template: str, note: bytes) -> None:
    """The first two of six steps that were announced."""
    with store.create(template, ANNOUNCED) as writer:
        for step in range(SIZE.steps):
            for block in range(SIZE.blocks):
                writer.put(step, block, record_of(step * SIZE.blocks + block))
        writer.commit(steps=SIZE.steps, note=note)


def check(store: TieredStore, template: str, note: bytes) -> None:
    """That all of it is there."""
    assert store.templates(None) == [(template, SIZE.num_bytes)]
    with store.lease(template) as lease:  # type: ignore[union-attr]
        assert (lease.size, lease.note) == (SIZE, note)
    assert read_template(store, template, SIZE) == values_of(SIZE)


def test_they_outlive_the_store(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(tiered_store(DiskTier.open(tmp_path, 1 << 20))) as store:
            if not store.holds("a"):
                write(store, "a", b"note")
            check(store, "a", b"note")
            store.flush()
            assert store.sweep() == (SIZE.records, 0)


def test_they_come_to_other_machines_by_a_shared_tier() -> None:
    shared = FakeTier(name="object", is_shared=True)
    with closing(tiered_store(shared)) as store:
        write(store, "a", b"note")
    with closing(tiered_store(FakeTier(), FakeTier(name="object", content=shared, is_shared=True))) as store:
        assert store.holds("a")
        check(store, "a", b"note")


def test_the_commit_may_come_before_the_steps_are_on_the_disk() -> None:
    disk = FakeTier()
    disk.gate.clear()
    with closing(tiered_store(disk)) as store:
        write(store, "a", b"note")
        check(store, "a", b"note")
        disk.gate.set()
        store.flush()
        assert disk.committed["a"].size == SIZE
        assert disk.used_bytes == SIZE.records * SIZE.stored_record_bytes


@pytest.mark.parametrize("cold", [(), (FakeTier,)], ids=["memory", "disk"])
def test_memory_that_was_taken_for_a_step_of_which_nothing_came_is_given_back(cold: tuple[type[ColdTier], ...]) -> None:
    with closing(tiered_store(*(tier() for tier in cold))) as store:
        writer = store.create("a", ANNOUNCED)
        assert writer.slot(5, 0) is not None
        for block in range(2):
            writer.put(0, block, record_of(block))
        writer.commit(steps=1)
        store.flush()
        host = store.host
        assert host.used_bytes == host.evictable_bytes == SIZE.blocks * host.arena.page_bytes
        store.delete("a")
        fill_template(store, "b", TemplateSize(16, 1, RECORD_BYTES))  # as many pages as there are
        assert store.holds("b")


def test_another_template_goes_for_a_note(tmp_path: Path) -> None:
    disk = DiskTier.open(tmp_path, 0)
    budget_bytes = 2 * disk.footprint_bytes(SIZE)
    disk.close()
    with closing(tiered_store(DiskTier.open(tmp_path, budget_bytes + 100))) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        with store.create("b", SIZE) as writer:
            for step in range(SIZE.steps):
                for block in range(SIZE.blocks):
                    writer.put(step, block, record_of(step * SIZE.blocks + block))
            store.flush()
            assert store.holds("a")  # as there is room for the records of both
            writer.commit(note=b"note")
        store.flush()
        check(store, "b", b"note")
