"""A host tier over tiers below it: what is found where, who goes, and what failures cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from instgenie_cache import (
    BeingWrittenError,
    CacheError,
    IncompleteTemplateError,
    RecordFormatError,
    RecordKey,
    StoreFullError,
    TemplateSize,
)
from instgenie_cache.records.record import encode_record
from instgenie_cache.stores.tiered_writer import TieredWriter
from tests.cache.small_stores import (
    PAGE_BYTES,
    RECORD_BYTES,
    FakeTier,
    fill_of,
    fill_template,
    read_template,
    record_of,
    tiered_store,
    values_of,
)
from tests.cache.tiered import SIZE, STORED_BYTES, WIDE, Counts, SlowTier, closing, push_out

# Writing and reading


@pytest.mark.parametrize("cold", [(), (FakeTier,)], ids=["memory", "disk"])
def test_what_was_committed_is_read_back(cold: tuple[type[FakeTier], ...]) -> None:
    with closing(tiered_store(*(tier() for tier in cold))) as store:
        fill_template(store, "a", WIDE, first=40)
        assert read_template(store, "a", WIDE) == values_of(WIDE, first=40)
        assert store.num_bytes("a") == WIDE.num_bytes
        assert read_template(store, "b", WIDE) is None


def test_committed_template_is_found_at_once_and_on_disk_after_a_flush() -> None:
    disk = FakeTier()
    disk.gate.clear()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        assert read_template(store, "a", SIZE) == values_of(SIZE)
        assert not disk.committed
        disk.gate.set()
        store.flush()
        assert disk.committed["a"].size == SIZE
        assert disk.committed["a"].cost_ms == 10.0


def test_template_outlives_the_store() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=7)
    assert disk.is_closed
    with closing(tiered_store(again := FakeTier(content=disk))) as store:
        lease = store.lease("a")
        assert lease is not None
        assert lease.tier == "disk"
        lease.release()
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=7)
        second = store.lease("a")
        assert second is not None
        assert second.tier == "host"
        second.release()
        assert sorted(again.reads) == [("a", step) for step in range(4)]  # once each


def test_template_larger_than_the_memory_is_written_and_read_through_it() -> None:
    size = TemplateSize(40, 1, RECORD_BYTES)
    with closing(tiered_store(FakeTier(), pages=8)) as store:
        fill_template(store, "a", size)
        assert read_template(store, "a", size) == values_of(size)


def test_template_larger_than_the_memory_is_refused_where_there_is_no_disk() -> None:
    with closing(tiered_store(pages=8)) as store:
        fill_template(store, "a", TemplateSize(8, 1, RECORD_BYTES))
        with pytest.raises(StoreFullError, match="a template of 36864 bytes does not fit: 32768 of 32768 bytes"):
            store.create("b", TemplateSize(9, 1, RECORD_BYTES))
        assert store.holds("a")


def test_step_larger_than_the_memory_is_refused() -> None:
    with (
        closing(tiered_store(FakeTier(), pages=2)) as store,
        pytest.raises(StoreFullError, match="a step of 12288 bytes does not fit the 8192 bytes of the host tier"),
    ):
        store.create("a", TemplateSize(1, 3, RECORD_BYTES))


def test_template_has_one_writer_at_a_time() -> None:
    with closing(tiered_store(FakeTier())) as store:
        with store.create("a", SIZE), pytest.raises(BeingWrittenError, match="template a is being written"):
            store.create("a", SIZE)
        fill_template(store, "a", SIZE)  # it ended without a commit


def test_what_is_written_of_a_template_that_is_there_is_not_kept() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=1)
        store.flush()
        fill_template(store, "a", SIZE, first=2)
        store.flush()
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=1)
        assert disk.committed.keys() == {"a"}


@pytest.mark.parametrize("has_disk", [False, True])
def test_writer_that_ends_without_a_commit_leaves_nothing(has_disk: bool) -> None:
    disk = FakeTier()
    with closing(tiered_store(*([disk] if has_disk else []))) as store:
        free = store.host.free_bytes
        with store.create("a", SIZE) as writer:
            for step in range(3):
                writer.put(step, 0, record_of(step))
        store.flush()
        assert not store.holds("a")
        assert not disk.records
        assert store.host.free_bytes == free
        assert store.stats().used_bytes == 0


def test_commit_that_lacks_a_record_is_refused() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        writer = store.create("a", WIDE)
        for step, block in ((0, 0), (0, 1), (1, 0)):
            writer.put(step, block, record_of(0, 1000))
        with pytest.raises(IncompleteTemplateError, match="3 of 6 records"):
            writer.commit()
        store.flush()
        assert not disk.records
        assert not store.holds("a")


def test_record_of_a_complete_step_is_not_replaced_while_it_is_being_written_to_disk() -> None:
    with closing(tiered_store(FakeTier())) as store:
        writer = store.create("a", SIZE)
        writer.put(0, 0, record_of(1))
        with pytest.raises(CacheError, match="step 0 is complete"):
            writer.put(0, 0, record_of(2))


# Records that are received in place


def test_record_received_in_its_slot_is_verified() -> None:
    size = TemplateSize(1, 2, 1000)
    with closing(tiered_store(FakeTier())) as store:
        with store.create("a", size) as writer:
            for block in range(2):
                data = encode_record(RecordKey("a", 0, block), record_of(block, 1000))
                (slot,) = writer.slot(0, block) or []
                slot[:] = data
                writer.filled(0, block)
            writer.commit()
        assert read_template(store, "a", size) == [[0, 1]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"X" + data[1:],
        lambda _: encode_record(RecordKey("a", 0, 1), record_of(0)),
        lambda _: encode_record(RecordKey("b", 0, 0), record_of(0)),
    ],
    ids=["payload", "magic", "another block", "another template"],
)
def test_wrong_bytes_in_a_slot_end_the_writer(spoil: Callable[[bytes], bytes]) -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        writer = store.create("a", SIZE)
        (slot,) = writer.slot(0, 0) or []
        slot[:] = spoil(encode_record(RecordKey("a", 0, 0), record_of(0)))
        with pytest.raises(RecordFormatError):
            writer.filled(0, 0)
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.put(0, 0, record_of(0))
        store.flush()
        assert not disk.records


def test_writer_waits_for_memory_until_steps_are_on_disk() -> None:
    disk = FakeTier()
    disk.gate.clear()
    with closing(tiered_store(disk, pages=2)) as store:
        writer = store.create("a", SIZE)
        for step in range(2):
            writer.put(step, 0, record_of(step))
        assert writer.slot(2, 0) is None
        threading.Timer(0.05, disk.gate.set).start()
        for step in range(2, 4):
            writer.put(step, 0, record_of(step))
        writer.commit()
        assert read_template(store, "a", SIZE) == values_of(SIZE)


def test_writer_that_waits_in_vain_is_told_so() -> None:
    disk = FakeTier()
    disk.gate.clear()
    with closing(tiered_store(disk, pages=2)) as store:
        writer = store.create("a", SIZE)
        for step in range(2):
            writer.put(step, 0, record_of(step))
        with pytest.raises(StoreFullError, match="the rest of the host tier's 8192 bytes is in use"):
            writer.put(2, 0, record_of(2))
        disk.gate.set()


# Eviction


def test_memory_alone_evicts_whole_templates() -> None:
    counts = Counts()
    with closing(tiered_store(pages=8, observer=counts)) as store:
        fill_template(store, "a", SIZE)
        fill_template(store, "b", SIZE)
        fill_template(store, "c", TemplateSize(1, 1, RECORD_BYTES))
        assert [name for name in "abc" if store.holds(name)] == ["b", "c"]
        assert store.stats().evicted_templates == 1
        assert store.host.free_bytes == 3 * PAGE_BYTES


def test_steps_evicted_from_memory_come_back_from_disk() -> None:
    disk, counts = FakeTier(), Counts()
    with closing(tiered_store(disk, pages=4, observer=counts)) as store:
        fill_template(store, "a", SIZE, first=1)
        fill_template(store, "b", SIZE, first=2)
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=1)
        assert read_template(store, "b", SIZE) == values_of(SIZE, first=2)
        assert counts.of["evicted host"] >= SIZE.steps
        assert store.stats().evicted_templates == 0


def test_disk_evicts_whole_templates_within_its_budget() -> None:
    disk, counts = FakeTier(2 * STORED_BYTES), Counts()
    with closing(tiered_store(disk, observer=counts)) as store:
        for name in "ab":
            fill_template(store, name, SIZE)
        store.flush()
        assert read_template(store, "a", SIZE) is not None  # so b is the one that was used longest ago
        fill_template(store, "c", SIZE)
        store.flush()
        assert disk.committed.keys() == {"a", "c"}
        assert [name for name in "abc" if store.holds(name)] == ["a", "c"]
        assert (store.stats().evicted_templates, counts.of["evicted disk"]) == (1, 1)


@pytest.mark.parametrize("has_disk", [False, True])
@pytest.mark.parametrize("how", ["lease", "pin"])
def test_template_in_use_is_not_evicted(how: str, has_disk: bool) -> None:
    cold = [FakeTier(2 * STORED_BYTES)] if has_disk else []
    with closing(tiered_store(*cold, pages=8)) as store:
        fill_template(store, "a", SIZE, first=1)
        fill_template(store, "b", SIZE)
        store.flush()
        lease = store.lease("a") if how == "lease" else None
        assert how == "lease" or store.pin("a")
        fill_template(store, "c", SIZE)
        store.flush()
        assert [name for name in "abc" if store.holds(name)] == ["a", "c"]
        with pytest.raises(StoreFullError, match="does not fit"):
            store.create("d", TemplateSize(8, 1, RECORD_BYTES))
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=1)
        if lease is not None:
            lease.release()
        store.unpin("a")
        fill_template(store, "d", SIZE)
        fill_template(store, "e", SIZE)
        store.flush()
        assert not store.holds("a")


def test_pin_of_an_unknown_template() -> None:
    with closing(tiered_store()) as store:
        assert not store.pin("a")
        store.unpin("a")


def test_smaller_budget_at_the_next_start_evicts() -> None:
    disk = FakeTier(3 * STORED_BYTES)
    with closing(tiered_store(disk)) as store:
        for name in "abc":
            fill_template(store, name, SIZE)
    with closing(tiered_store(FakeTier(2 * STORED_BYTES, content=disk))) as store:
        assert [name for name in "abc" if store.holds(name)] == ["b", "c"]
    assert disk.committed.keys() == {"b", "c"}


# Deletion


def test_deleted_template_is_read_on_by_who_has_it_in_memory() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=1)
        lease = store.lease("a")
        assert lease is not None
        assert lease.step(2) is not None
        store.delete("a")
        store.flush()
        assert not disk.records
        assert read_template(store, "a", SIZE) is None
        fill_template(store, "a", SIZE, first=100)
        records = lease.step(2)
        assert records is not None
        assert fill_of(records[0]) == 3
        lease.release()
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=100)
        store.flush()
        assert disk.committed.keys() == {"a"}


def test_deletion_while_a_template_is_written_ends_in_nothing() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        writer = store.create("a", SIZE)
        writer.put(0, 0, record_of(0))
        store.delete("a")
        for step in range(1, 4):
            writer.put(step, 0, record_of(step))
        writer.commit()
        store.flush()
        assert not store.holds("a")
        assert not disk.records
        assert store.host.used_bytes == 0


@pytest.mark.parametrize("end", [TieredWriter.abort, TieredWriter.commit])
@pytest.mark.parametrize("is_committed", [False, True])
def test_writer_of_a_deleted_template_leaves_its_successor_alone(
    end: Callable[[TieredWriter], None], is_committed: bool
) -> None:
    with closing(tiered_store(disk := FakeTier())) as store:
        late = store.create("a", SIZE)
        late.put(0, 0, record_of(1))
        store.delete("a")
        successor = store.create("a", SIZE)
        for step in range(SIZE.steps):
            successor.put(step, 0, record_of(5 + step))
        store.flush()
        if is_committed:
            successor.commit()
        end(late)
        store.flush()
        if not is_committed:
            successor.commit()
        store.flush()
        assert "a" in disk.committed
        push_out(store)
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=5)


def test_lease_of_a_deleted_template_does_not_read_what_was_written_after_it() -> None:
    with closing(tiered_store(FakeTier())) as store:
        fill_template(store, "a", SIZE, first=1)
        push_out(store)
        lease = store.lease("a")
        assert lease is not None
        assert lease.step(0) is not None
        store.delete("a")
        fill_template(store, "a", SIZE, first=100)
        push_out(store, pages=14)
        assert lease.step(3) is None
        (record,) = lease.step(0) or ()
        assert fill_of(record) == 1
        lease.release()


def test_step_that_was_deleted_and_written_anew_while_it_was_read_is_lost() -> None:
    disk = SlowTier()
    with closing(tiered_store(disk)) as store, ThreadPoolExecutor(1) as pool:
        fill_template(store, "a", SIZE, first=1)
        push_out(store)
        lease = store.lease("a")
        assert lease is not None
        disk.may_read.clear()
        reading = pool.submit(lease.step, 3)
        assert disk.is_reading.wait(10)
        store.delete("a")
        fill_template(store, "a", SIZE, first=100)
        store.flush()
        disk.may_read.set()
        assert reading.result(10) is None
        lease.release()
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=100)
        store.flush()
    assert store.host.used_bytes == store.host.evictable_bytes


def test_slot_of_a_template_that_was_deleted_is_not_looked_at() -> None:
    size = TemplateSize(1, 2, 1000)
    with closing(tiered_store(FakeTier())) as store:
        writer = store.create("a", size)
        writer.put(0, 0, record_of(0, 1000))
        store.delete("a")
        assert not writer.is_wanted
        assert writer.slot(0, 1) is None
        writer.filled(0, 1)
        writer.commit()
        assert not store.holds("a")
        assert store.host.used_bytes == 0
