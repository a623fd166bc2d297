"""Some blocks of a step of a tiered store: what is read for them and what is not, waiting, failures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from instgenie_cache import CacheError, RecordKey, TemplateSize
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.tiered_lease import TieredLease
from instgenie_cache.stores.tiered_store import TieredStore
from tests.cache.small_stores import FakeTier, fill_of, fill_template, tiered_store, values_of
from tests.cache.tiered import Counts, SlowTier, closing, push_out, wait_until

SIZE = TemplateSize(steps=3, blocks=4, record_bytes=700)  # a page a step
VALUES = values_of(SIZE)

Result = TypeVar("Result")


def written() -> FakeTier:
    """A disk that holds template `a`."""
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", SIZE)
    return disk


def leased(store: TieredStore) -> TieredLease:
    lease = store.lease("a")
    assert lease is not None
    return lease


def blocks_of(lease: TieredLease, step: int, first: int, stop: int) -> list[int] | None:
    """What the records are full of."""
    records = lease.blocks(step, first, stop)
    return None if records is None else [fill_of(record) for record in records]


def later(call: Callable[[], Result]) -> Future[Result]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_nothing_but_these_records_is_read() -> None:
    disk, counts = FakeTier(content=written()), Counts()
    with closing(tiered_store(disk, observer=counts)) as store, leased(store) as lease:
        assert blocks_of(lease, 1, 1, 3) == VALUES[1][1:3]
        assert (disk.reads, disk.read_blocks) == ([("a", 1)], [range(1, 3)])
        assert (counts.of["loaded disk"], counts.loaded_bytes) == (1, 2 * SIZE.stride_bytes)
        assert store.host.used_bytes == 0
        assert blocks_of(lease, 1, 3, 3) == []
        assert len(disk.reads) == 1


def test_step_in_memory_is_not_read() -> None:
    disk = FakeTier(content=written())
    with closing(tiered_store(disk)) as store, leased(store) as lease:
        assert lease.load(1) is not None
        assert blocks_of(lease, 1, 1, 3) == VALUES[1][1:3]
        with leased(store) as other:
            assert blocks_of(other, 1, 0, 4) == VALUES[1]
        assert disk.read_blocks == [None]


def test_blocks_of_steps_in_memory_stay_there_while_two_others_are_read() -> None:
    size = TemplateSize(8, 1, 700)
    with closing(tiered_store(FakeTier(), pages=9)) as store:  # a lease keeps two steps of a page
        fill_template(store, "a", size)
        store.flush()
        with leased(store) as lease:
            records = [(lease.blocks(step, 0, 1) or ())[0] for step in (0, 1)]
            fill_template(store, "b", size, first=100)
            store.flush()
            assert [fill_of(record) for record in records] == [0, 1]
            assert lease.tiers()[:2] == ["host"] * 2


@pytest.mark.parametrize("harm", ["flipped", "lost"])
def test_harmed_record_drops_the_template_once_it_is_wanted(harm: str) -> None:
    disk, counts = FakeTier(content=written()), Counts()
    with closing(tiered_store(disk, observer=counts)) as store, leased(store) as lease:
        if harm == "flipped":
            disk.flip(RecordKey("a", 2, 1), position=300)
        else:
            del disk.records[RecordKey("a", 2, 1)]
        assert blocks_of(lease, 2, 2, 4) == VALUES[2][2:]
        assert store.holds("a")
        assert lease.blocks(2, 0, 2) is None
        assert counts.of["corrupt disk"] == (harm == "flipped")
        assert not store.holds("a")
        assert lease.blocks(2, 2, 4) is None  # gone with the template
        store.flush()
        assert "a" not in disk.committed


def test_harmed_record_comes_from_the_tier_behind() -> None:
    bucket, disk, counts = FakeTier(name="object", is_shared=True), FakeTier(), Counts()
    with closing(tiered_store(disk, bucket, observer=counts)) as store:
        fill_template(store, "a", SIZE)
        wait_until(lambda: len(store._state.entries["a"].tiers) == 2)
        push_out(store)
        disk.flip(RecordKey("a", 0, 0), position=300)
        with leased(store) as lease:
            assert blocks_of(lease, 0, 0, 2) == VALUES[0][:2]
        assert (counts.of["corrupt disk"], counts.of["loaded object"]) == (1, 1)
        assert store.holds("a")


def test_tier_that_cannot_be_read_is_an_error_and_no_loss() -> None:
    disk, counts = FakeTier(content=written()), Counts()
    with closing(tiered_store(disk, observer=counts)) as store, leased(store) as lease:
        disk.read_limit = 0
        with pytest.raises(CacheError, match="cannot be read"):
            lease.blocks(0, 0, 1)
        assert counts.of["failed disk"] == 1
        disk.read_limit = None
        assert blocks_of(lease, 0, 0, 1) == VALUES[0][:1]


def test_memory_that_is_not_there_is_an_error_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> Slab:
        raise MemoryError

    with closing(tiered_store(FakeTier(content=written()))) as store, leased(store) as lease:
        monkeypatch.setattr(Slab, "private", refuse)
        with pytest.raises(CacheError, match=f"no memory for 2 blocks of {2 * SIZE.stride_bytes} bytes"):
            lease.blocks(0, 0, 2)


def slow_store() -> tuple[TieredStore, SlowTier]:
    """With template `a` on disk alone; reads wait."""
    disk = SlowTier()
    store = tiered_store(disk)
    fill_template(store, "a", SIZE)
    push_out(store)
    disk.reads.clear()
    disk.read_blocks.clear()
    disk.is_reading.clear()
    disk.may_read.clear()
    return store, disk


@pytest.mark.parametrize("is_found", [True, False])
def test_step_that_is_being_loaded_is_waited_for(is_found: bool) -> None:
    store, disk = slow_store()
    with closing(store), leased(store) as lease:
        loading = later(lambda: store.lease("a").step(0))  # type: ignore[union-attr]
        assert disk.is_reading.wait(10)
        if not is_found:
            del disk.records[RecordKey("a", 0, 3)]
        reading = later(lambda: blocks_of(lease, 0, 1, 3))
        disk.may_read.set()
        assert reading.result(10) == (VALUES[0][1:3] if is_found else None)
        assert (loading.result(10) is not None) is is_found
        assert [step for step, blocks in zip(disk.reads, disk.read_blocks, strict=False) if blocks] == []


def test_load_that_fails_fails_for_who_waits_for_it() -> None:
    store, disk = slow_store()
    with closing(store), leased(store) as lease:
        loading = later(lambda: store.lease("a").step(0))  # type: ignore[union-attr]
        assert disk.is_reading.wait(10)
        disk.read_limit = 0
        reading = later(lambda: lease.blocks(0, 1, 3))
        disk.may_read.set()
        for failing in (loading, reading):
            with pytest.raises(CacheError, match="cannot be read"):
                failing.result(10)
        disk.read_limit = None


def test_template_that_is_deleted_while_blocks_are_read_is_lost() -> None:
    store, disk = slow_store()
    with closing(store), leased(store) as lease:
        reading = later(lambda: lease.blocks(0, 1, 3))
        assert disk.is_reading.wait(10)
        disk.delete_gate.clear()  # the bytes are still there
        store.delete("a")
        disk.may_read.set()
        assert reading.result(10) is None
        disk.delete_gate.set()


def test_lease_that_is_released_while_it_reads_keeps_nothing() -> None:
    store, disk = slow_store()
    with closing(store):
        lease = leased(store)
        reading = later(lambda: blocks_of(lease, 0, 1, 3))
        assert disk.is_reading.wait(10)
        lease.release()
        assert not lease.is_valid
        disk.may_read.set()
        assert reading.result(10) == VALUES[0][1:3]  # in memory of its own
        entry = store._state.entries["a"]
        assert not entry.is_held


def test_several_threads_read_several_blocks() -> None:
    disk = FakeTier(content=written())
    with closing(tiered_store(disk)) as store, leased(store) as lease, ThreadPoolExecutor(4) as pool:
        wanted = [(step, block) for step in range(SIZE.steps) for block in range(SIZE.blocks)] * 5
        found = pool.map(lambda place: blocks_of(lease, place[0], place[1], place[1] + 1), wanted)
        assert list(found) == [[VALUES[step][block]] for step, block in wanted]
        assert len(disk.reads) == len(wanted)


def test_what_prefetch_was_told_of_is_loaded_as_blocks_are_read() -> None:
    size = TemplateSize(8, 1, 700)
    disk = FakeTier()
    with closing(tiered_store(disk)) as store:
        fill_template(store, "a", size)
    with closing(tiered_store(again := FakeTier(content=disk), pages=9)) as store, leased(store) as lease:
        lease.prefetch(range(6))  # two at a time
        wait_until(lambda: len(store.host) == 2)
        assert len(again.reads) == 2
        for step in range(6):
            wait_until(lambda step=step: lease.tiers()[step] == "host")  # type: ignore[misc]
            assert blocks_of(lease, step, 0, 1) == [step]
        assert sorted(again.reads) == [("a", step) for step in range(6)]


def test_tiers_tell_where_each_step_is() -> None:
    with closing(tiered_store(FakeTier(content=written()))) as store, leased(store) as lease:
        assert lease.tiers() == ["disk"] * 3
        assert lease.load(1) is not None
        assert lease.tiers() == ["disk", "host", "disk"]
        store.delete("a")
        assert lease.tiers()[1] == "host"  # as long as the lease keeps it


def test_tiers_behind_the_disk_are_told() -> None:
    bucket = SlowTier()
    bucket.name, bucket.is_shared = "object", True
    content = written()
    bucket.records, bucket.committed = content.records, content.committed
    bucket.may_read.clear()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        with leased(store) as lease:
            assert lease.tiers() == ["object"] * 3
            bucket.may_read.set()
            wait_until(lambda: set(lease.tiers()) <= {"host", "disk"})  # it is copied
        assert store.holds("a")


def test_asking_for_tiers_is_no_use_of_a_step() -> None:
    with closing(tiered_store(FakeTier(content=written()), pages=4)) as store:
        for step in (0, 1, 2):
            with leased(store) as lease:
                assert lease.load(step) is not None
        with leased(store) as lease:
            lease.tiers()
            fill_template(store, "b", TemplateSize(2, 4, 700))  # step 0, the least recently used, goes first
            assert lease.tiers() == ["disk", "host", "host"]


def test_blocks_are_read_where_the_memory_is_in_use() -> None:
    with (
        closing(tiered_store(FakeTier(content=written()), pages=2)) as store,
        leased(store) as holder,
        leased(store) as lease,
    ):
        assert holder.load(0) is not None
        assert holder.load(1) is not None
        assert blocks_of(lease, 2, 0, 4) == VALUES[2]
