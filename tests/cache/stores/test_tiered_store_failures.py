"""A tiered store when tiers fail, when memory is short, and with a tier that others share."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from instgenie_cache import (
    CacheError,
    RecordKey,
    StoreFullError,
    TemplateSize,
)
from instgenie_cache.eviction import PolicyName
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.stores.tiered_writer import TieredWriter
from tests.cache.damage import lose_pages
from tests.cache.small_stores import (
    RECORD_BYTES,
    FakeTier,
    fill_of,
    fill_template,
    read_template,
    record_of,
    tiered_store,
    values_of,
)
from tests.cache.tiered import SIZE, STORED_BYTES, WIDE, Counts, closing, closing_lease, push_out, wait_until

# Failures


def test_flipped_bit_is_noticed_and_the_template_dropped() -> None:
    disk, counts = FakeTier(), Counts()
    with closing(tiered_store(disk, observer=counts)) as store:
        fill_template(store, "a", SIZE)
        push_out(store)
        disk.flip(RecordKey("a", 2, 0))
        lease = store.lease("a")
        assert lease is not None
        assert lease.step(1) is not None
        assert lease.step(2) is None
        lease.release()
        assert counts.of["corrupt disk"] == 1
        assert read_template(store, "a", SIZE) is None
        store.flush()
        assert "a" not in disk.committed


def test_lost_record_drops_the_template() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        push_out(store)
        del disk.records[RecordKey("a", 3, 0)]
        assert read_template(store, "a", SIZE) == [*values_of(SIZE)[:3], None]
        assert not store.holds("a")


def test_tier_that_cannot_be_read_is_an_error_and_no_loss() -> None:
    disk, counts = FakeTier(), Counts()
    with closing(tiered_store(disk, observer=counts)) as store:
        fill_template(store, "a", SIZE)
        push_out(store)
        disk.broken = CacheError("I/O error")
        with store.lease("a") as lease, pytest.raises(CacheError, match="I/O error"):  # type: ignore[union-attr]
            lease.step(0)
        assert counts.of["failed disk"] >= 1
        disk.broken = None
        assert read_template(store, "a", SIZE) == values_of(SIZE)


def test_template_that_the_disk_does_not_take_stays_in_memory() -> None:
    disk = FakeTier()
    disk.full_after = 2
    disk.gate.clear()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=5)
        disk.gate.set()
        with pytest.raises(StoreFullError, match="the disk is full"):
            store.flush()
        store.flush()  # it is told once
        assert not disk.records
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=5)
        disk.full_after = None
        with closing_lease(store, "a"):
            fill_template(store, "b", TemplateSize(12, 1, RECORD_BYTES))
            store.flush()
            assert read_template(store, "a", SIZE) == values_of(SIZE, first=5)
        push_out(store)
        assert not store.holds("a")  # it was nowhere else


def test_writer_is_told_that_the_disk_is_full_and_what_is_there_stays() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=1)
        store.flush()
        disk.full_after = 1
        writer = store.create("b", SIZE)
        for step in range(2):
            writer.put(step, 0, record_of(step))
            store.flush()
        with pytest.raises(StoreFullError, match="the disk is full"):
            writer.put(2, 0, record_of(2))
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=1)
        assert not store.holds("b")
        store.flush()
        assert {key.template for key in disk.records} == {"a"}


def test_commit_tells_of_a_disk_that_failed() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        writer = store.create("a", SIZE)
        for step in range(3):
            writer.put(step, 0, record_of(step))
        store.flush()
        disk.broken = CacheError("I/O error")
        writer.put(3, 0, record_of(3))
        store.flush()
        with pytest.raises(CacheError, match="I/O error"):
            writer.commit()
        disk.broken = None


# Loads


def test_step_that_several_want_is_loaded_once() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
    with closing(tiered_store(again := FakeTier(content=disk))) as store:
        results: list[object] = []
        threads = [threading.Thread(target=lambda: results.append(read_template(store, "a", SIZE))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [values_of(SIZE)] * 8
        assert sorted(again.reads) == [("a", step) for step in range(4)]


def test_steps_are_read_without_memory_to_spare() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE, first=1)
        fill_template(store, "b", SIZE, first=2)
    with closing(tiered_store(FakeTier(content=disk), pages=4)) as store:
        holder = store.lease("a")
        assert holder is not None
        assert all(holder.load(step) for step in range(4))  # the whole arena is in use
        lease = store.lease("b")
        assert lease is not None
        view = lease.load(0)
        assert view is not None
        assert view.extents is None
        assert read_template(store, "b", SIZE) == values_of(SIZE, first=2)
        holder.release()
        lease.release()


def test_prefetched_steps_are_in_memory_when_they_are_wanted() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
    with closing(tiered_store(again := FakeTier(content=disk))) as store:
        store.prefetch("a")
        store.prefetch("unknown")
        deadline = threading.Event()
        while len(again.reads) < 4:
            deadline.wait(0.001)
        with store.lease("a") as lease:  # type: ignore[union-attr]
            assert lease.step(3) is not None
        assert len(again.reads) == 4


def test_warm_up_brings_the_newest_whole_templates_into_half_of_the_memory() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        for number, name in enumerate("abc"):
            fill_template(store, name, SIZE, first=number)
    with closing(tiered_store(again := FakeTier(content=disk), pages=11)) as store:  # half has room for one of 4 pages
        assert store.warm_up() == 1
        assert read_template(store, "c", SIZE) == values_of(SIZE, first=2)
        assert again.reads == [("c", step) for step in range(SIZE.steps)]


@pytest.mark.parametrize("policy", ["lru", "lfu", "gdsf"])
def test_newest_of_what_was_warmed_up_is_the_last_to_go(policy: PolicyName) -> None:
    disk = FakeTier()
    with closing(tiered_store(disk, pages=64)) as store:
        for number, name in enumerate("abcd"):
            fill_template(store, name, SIZE, first=number)
        fill_template(store, "large", TemplateSize(20, 1, RECORD_BYTES))  # larger than half of the memory
    with closing(tiered_store(again := FakeTier(content=disk), pages=32, policy=policy)) as store:
        assert store.warm_up() == 4
        fill_template(store, "other", TemplateSize(20, 1, RECORD_BYTES))  # for which one of them has to go
        again.reads.clear()
        assert read_template(store, "d", SIZE) == values_of(SIZE, first=3)
        assert not again.reads


def test_warm_up_takes_free_memory_alone() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        fill_template(store, "b", SIZE, first=1)
    with closing(tiered_store(again := FakeTier(content=disk), pages=16)) as store:
        fill_template(store, "own", TemplateSize(13, 1, RECORD_BYTES))
        assert store.warm_up() == 0
        assert [step for name, step in again.reads if name == "b"] == [0, 1, 2]


def test_warm_up_ends_when_it_is_told_to_and_survives_a_tier_that_fails() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        fill_template(store, "b", SIZE, first=1)
    with closing(tiered_store(again := FakeTier(content=disk), pages=16)) as store:
        assert store.warm_up(should_stop=lambda: len(again.reads) >= 2) == 0
        assert len(again.reads) == 2
        again.broken = CacheError("I/O error")
        assert store.warm_up() == 0
        again.broken = None
        assert store.warm_up() == 2


def test_released_lease_reads_no_more() -> None:
    with closing(tiered_store()) as store:
        fill_template(store, "a", SIZE)
        lease = store.lease("a")
        assert lease is not None
        assert lease.is_valid
        lease.release()
        lease.release()
        assert not lease.is_valid
        with pytest.raises(CacheError, match="released before"):
            lease.step(0)


def test_step_outside_the_template_is_not_there() -> None:
    with closing(tiered_store(FakeTier())) as store:
        fill_template(store, "a", SIZE)
        with store.lease("a") as lease:  # type: ignore[union-attr]
            assert lease.step(4) is None
            assert lease.step(-1) is None
        assert store.holds("a")


# Namespaces, lists, sweeps


def test_namespaces_see_their_own() -> None:
    with closing(tiered_store(FakeTier())) as store:
        for name in ("x/b", "x/a", "y/a", "c"):
            fill_template(store, name, WIDE)
        assert store.lease("x/unknown") is None
        with store.lease("x/a"):  # type: ignore[union-attr]
            pass
        assert store.templates("x") == [("x/a", WIDE.num_bytes), ("x/b", WIDE.num_bytes)]
        assert [name for name, _ in store.templates(None, after="c", limit=2)] == ["x/a", "x/b"]
        mine, all_ = store.stats("x"), store.stats()
        assert (mine.templates, mine.hits, mine.misses, mine.used_bytes) == (2, 1, 1, 2 * WIDE.num_bytes)
        assert (all_.templates, all_.hits, all_.misses) == (4, 1, 1)


def test_sweep_finds_what_is_broken_in_its_namespace() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        for name in ("x/a", "x/b", "y/a"):
            fill_template(store, name, WIDE)
        store.flush()
        disk.flip(RecordKey("x/b", 1, 1), position=300)
        disk.flip(RecordKey("y/a", 0, 0), position=300)
        assert store.sweep("x") == (WIDE.records + 4, 1)  # nothing more is read of a template that is broken
        assert [name for name, _ in store.templates(None)] == ["x/a", "y/a"]
        assert store.sweep() == (WIDE.records + 2, 1)
        assert [name for name, _ in store.templates(None)] == ["x/a"]


def test_closed_store_takes_nothing_more() -> None:
    store = tiered_store()
    store.close()
    store.close()
    with pytest.raises(CacheError, match="the store was closed"):
        store.create("a", SIZE)
    with pytest.raises(CacheError, match="the store was closed"):
        store.lease("a")


def test_sweep_that_cannot_read_drops_nothing() -> None:
    disk, counts = FakeTier(), Counts()
    with closing(tiered_store(disk, observer=counts)) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        disk.broken = CacheError("too many open files")
        with pytest.raises(CacheError):
            store.sweep()
        disk.broken = None
        assert counts.of["failed disk"] == SIZE.steps
        assert counts.of["corrupt disk"] == 0
        assert store.holds("a")


def test_sweep_stops_when_it_is_told_to() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        answers = iter([False, False, True])
        assert store.sweep(should_stop=lambda: next(answers)) == (2, 0)


def test_deletion_that_fails_does_not_end_the_writing() -> None:
    disk = FakeTier(2 * STORED_BYTES)
    with closing(tiered_store(disk)) as store:
        for name in "ab":
            fill_template(store, name, SIZE)
        store.flush()
        disk.undeletable = True
        disk.delete_gate.clear()
        other = store.create("e", TemplateSize(1, 1, RECORD_BYTES))
        other.put(0, 0, record_of(0))  # for which a goes; the thread is kept at that until c is committed
        fill_template(store, "c", SIZE, first=3)
        disk.delete_gate.set()
        other.abort()
        with pytest.raises(StoreFullError, match="what was deleted, or evicted for others, is still there"):
            store.flush()
        assert read_template(store, "c", SIZE) == values_of(SIZE, first=3)  # from memory
        assert store.holds("b")  # one victim is enough to see that it is no use
        disk.undeletable = False
        fill_template(store, "d", SIZE, first=4)
        store.flush()
        assert "d" in disk.committed


def test_memory_that_becomes_evictable_wakes_a_writer() -> None:
    with closing(tiered_store(pages=4)) as store:
        first = store.create("a", TemplateSize(2, 1, RECORD_BYTES))
        for step in range(2):
            first.put(step, 0, record_of(step))
        second = store.create("b", TemplateSize(2, 1, RECORD_BYTES))
        fill_template_later = threading.Timer(0.05, first.commit)
        fill_template_later.start()
        for step in range(2):
            second.put(step, 0, record_of(step))
        second.commit()
        fill_template_later.join()
        assert store.holds("a")
        assert store.holds("b")


@pytest.mark.parametrize("cost_ms", [float("nan"), float("inf"), -1.0])
def test_cost_that_is_no_time_is_refused(cost_ms: float) -> None:
    with closing(tiered_store(FakeTier(), policy="gdsf")) as store:
        writer = store.create("a", SIZE)
        for step in range(4):
            writer.put(step, 0, record_of(step))
        with pytest.raises(CacheError, match="a cost of"):
            writer.commit(cost_ms)
        assert not store.holds("a")


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "\udcff", "x" * 65, "../a/b"])
def test_name_that_is_none_is_refused(name: str) -> None:
    with closing(tiered_store()) as store, pytest.raises(CacheError, match="no name of a template"):
        store.create(name, SIZE)


def test_writer_of_a_closed_store_is_told_so() -> None:
    store = tiered_store(FakeTier())
    writer = store.create("a", SIZE)
    store.close()
    with pytest.raises(CacheError, match="the store was closed"):
        writer.put(0, 0, record_of(0))
    with pytest.raises(CacheError, match="the store was closed"):
        writer.commit()
    store.flush()


def test_closed_store_gives_its_memory_back() -> None:
    gc.collect()  # of what other tests left
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        store = tiered_store(FakeTier())
        fill_template(store, "a", SIZE)
        store.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_durable_is_what_the_disk_took() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        writer = store.create("a", SIZE)
        for step in range(4):
            writer.put(step, 0, record_of(step))
        writer.commit()
        writer.wait_durable()
        assert "a" in disk.committed
        disk.full_after = 0
        writer = store.create("b", SIZE)
        disk.gate.clear()
        for step in range(4):
            writer.put(step, 0, record_of(step))
        writer.commit()
        disk.gate.set()
        with pytest.raises(StoreFullError, match="the disk is full"):
            writer.wait_durable()


def test_memory_beyond_the_arena_is_bounded() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        for name in "bcdefgh":
            fill_template(store, name, TemplateSize(1, 1, RECORD_BYTES))
    with closing(tiered_store(FakeTier(content=disk), pages=4)) as store:
        holder = store.lease("a")
        assert holder is not None
        assert all(holder.load(step) for step in range(4))
        leases = [lease for name in "bcdefgh" if (lease := store.lease(name)) is not None]
        assert [lease.load(0) is not None for lease in leases[:4]] == [True] * 4
        with pytest.raises(CacheError, match="no memory for a step of 4096 bytes"):
            leases[4].load(0)
        leases[0].release()
        assert leases[4].load(0) is not None
        for lease in (holder, *leases):
            lease.release()


def test_what_is_read_ahead_is_not_evicted_before_it_is_read() -> None:
    size = TemplateSize(20, 1, RECORD_BYTES)
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", size)
    with closing(tiered_store(again := FakeTier(content=disk), pages=8)) as store:
        with store.lease("a") as lease:  # type: ignore[union-attr]
            lease.prefetch(range(20))
            for step in range(20):
                records = lease.step(step)
                assert records is not None
                assert fill_of(records[0]) == step
        assert len(again.reads) <= 22  # 20, and few twice


def test_durable_is_asked_of_the_template_that_is_there() -> None:
    disk = FakeTier()
    disk.full_after = 0
    disk.gate.clear()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        second = store.create("a", SIZE)
        second.commit()
        assert not second.is_durable
        disk.gate.set()
        with pytest.raises(StoreFullError, match="the disk is full"):
            second.wait_durable()


def write_again(store: TieredStore, template: str) -> TieredWriter:
    writer = store.create(template, SIZE)
    for step in range(SIZE.steps):
        writer.put(step, 0, record_of(step))
    writer.commit()
    return writer


def test_what_the_next_start_throws_away_is_not_durable() -> None:
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        disk.fault = "/folder is broken"
        writer = write_again(store, "a")  # which is there, and so is not written anew
        assert not writer.is_durable
        for wait in (writer.wait_durable, store.flush, store.flush):
            with pytest.raises(CacheError, match="template a: /folder is broken"):
                wait()
        assert read_template(store, "a", SIZE) == values_of(SIZE)
        store.delete("a")
        assert writer.is_durable
        for wait in (writer.wait_durable, store.flush):
            wait()


def test_what_a_shared_tier_has_outlives_a_broken_file() -> None:
    disk, bucket = FakeTier(), FakeTier(name="object", is_shared=True)
    with closing(tiered_store(disk, bucket)) as store:
        fill_template(store, "a", SIZE)
        wait_until(lambda: "a" in bucket.committed)
        disk.fault = "/folder is broken"
        writer = write_again(store, "a")
        wait_until(lambda: writer.is_durable)
        writer.wait_durable()
        store.flush()


def test_templates_of_a_shared_tier_are_not_copied_to_a_broken_file() -> None:
    bucket = FakeTier(name="object", is_shared=True)
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE)
    disk = FakeTier()
    disk.fault = "/folder is broken"
    with closing(tiered_store(disk, FakeTier(name="object", is_shared=True, content=bucket))) as store:
        assert read_template(store, "a", SIZE) == values_of(SIZE)
        write_again(store, "a").wait_durable()
        store.flush()
    assert not disk.writes


def test_damage_that_was_found_is_told_to_whoever_wants_a_template_to_last(tmp_path: Path) -> None:
    settings = StoreSettings(host_bytes=64 << 20, folder=tmp_path, disk_bytes=64 << 20)
    with closing(build_store(settings)) as store:
        for name in "ab":
            fill_template(store, name, SIZE)
        store.flush()
        lose_pages(tmp_path, RecordKey("b", 1, 0))
        store.delete("b")  # by which it is found
        with pytest.raises(CacheError, match=f"{tmp_path}: its data file is broken"):
            write_again(store, "c").wait_durable()  # a put may be told already
        with pytest.raises(CacheError, match=f"{tmp_path}: its data file is broken"):
            write_again(store, "a").wait_durable()
        for _ in range(2):
            with pytest.raises(CacheError, match=f"{tmp_path}: its data file is broken"):
                store.flush()
    with closing(build_store(settings)) as store:
        assert store.templates(None) == []
        write_again(store, "a").wait_durable()


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_nothing_is_to_be_told_of_what_was_durable_and_went(how: str) -> None:
    disk = FakeTier(STORED_BYTES)
    with closing(tiered_store(disk)) as store:
        writer = write_again(store, "a")
        store.flush()
        if how == "deleted":
            store.delete("a")
        else:
            fill_template(store, "b", SIZE)
            store.flush()
        assert not store.holds("a")
        assert writer.is_durable
        writer.wait_durable()
