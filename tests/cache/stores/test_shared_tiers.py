"""A tiered store with a tier that other machines share: copies, deletions, and tiers that fail or do not answer."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from instgenie_cache import CacheError, RecordKey, TemplateSize
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.stores.replicator import ReplicatorTimes
from tests.cache.small_stores import (
    RECORD_BYTES,
    FakeTier,
    fill_template,
    read_template,
    tiered_store,
    values_of,
)
from tests.cache.tiered import SIZE, STORED_BYTES, Counts, closing, push_out, wait_until

AN_HOUR = 3600.0


def shared_tier(content: FakeTier | None = None) -> FakeTier:
    return FakeTier(name="object", is_shared=True, content=content)


def test_template_of_another_machine_is_found_and_copied_to_disk() -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE, first=3)
    assert bucket.committed.keys() == {"a"}  # closing waits for copies
    disk = FakeTier()
    with closing(tiered_store(disk, shared_tier(bucket))) as store:
        assert store.lookup_blocks("a")
        lease = store.lease("a")
        assert lease is not None
        assert lease.tier in ("object", "host", "disk")
        lease.release()
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=3)
    assert disk.committed.keys() == {"a"}


def test_shared_tier_that_fails_is_a_miss() -> None:
    bucket, counts = shared_tier(), Counts()
    with closing(tiered_store(FakeTier(), bucket, observer=counts)) as store:
        bucket.broken = CacheError("unreachable")
        assert store.lease("a") is None
        fill_template(store, "a", SIZE)
        store.flush()
        assert read_template(store, "a", SIZE) == values_of(SIZE)
    assert counts.of["failed object"] >= 1


def test_deletion_reaches_the_shared_tier() -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE)
    with closing(tiered_store(FakeTier(), shared_tier(bucket))) as store:
        store.delete("a")
    assert not bucket.committed


def test_shared_template_that_was_deleted_does_not_come_back() -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE)
    shared = shared_tier(bucket)
    with closing(tiered_store(FakeTier(), shared)) as store:
        assert store.holds("a")
        shared.delete_gate.clear()
        store.delete("a")
        assert store.lease("a") is None
        assert not store.holds("a")
        shared.delete_gate.set()
    assert not bucket.committed


def test_deletion_that_the_shared_tier_refuses_is_a_deletion_all_the_same() -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE, first=1)
        wait_until(lambda: "a" in bucket.committed)
        bucket.undeletable = True
        store.delete("a")
        assert store.lease("a") is None
        fill_template(store, "a", SIZE, first=50)
        store.flush()
        bucket.undeletable = False
        store.delete("b")  # something else for the replicator
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=50)
    with closing(tiered_store(FakeTier(), shared_tier(bucket))) as store:
        assert read_template(store, "a", SIZE) in (None, values_of(SIZE, first=50))  # never the one of before


def test_broken_disk_leaves_the_shared_copy_and_is_mended_from_it() -> None:
    disk, bucket, counts = FakeTier(), shared_tier(), Counts()
    with closing(tiered_store(disk, bucket, observer=counts)) as store:
        fill_template(store, "a", SIZE, first=3)
        wait_until(lambda: bucket in store._state.entries["a"].tiers)
        push_out(store)
        disk.flip(RecordKey("a", 1, 0))
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=3)
        assert counts.of["corrupt disk"] == 1
        wait_until(lambda: "a" in bucket.committed)
        store.flush()
        push_out(store)
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=3)  # its next use copies it to the disk anew
    assert counts.of["corrupt disk"] == 1
    assert "a" in disk.committed


def test_broken_shared_copy_is_deleted_there() -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE)
    bucket.flip(RecordKey("a", 0, 0))
    with closing(tiered_store(FakeTier(), shared_tier(bucket))) as store:
        assert store.holds("a")
        read_template(store, "a", SIZE)
    assert not bucket.committed


def test_nothing_is_left_of_a_copy_that_turns_out_to_be_broken() -> None:
    bucket = shared_tier()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE)
    bucket.flip(RecordKey("a", 3, 0))
    disk = FakeTier()

    class LateTier(FakeTier):
        """Its last step is read when another one has got to the disk."""

        def read_step(self, template: str, size: TemplateSize, step: int, *to: Any, **options: Any) -> bool:
            wait_until(lambda: step < size.steps - 1 or bool(disk.records))
            return super().read_step(template, size, step, *to, **options)

    shared = LateTier(name="object", is_shared=True, content=bucket)
    with closing(tiered_store(disk, shared)) as store:
        assert store.holds("a")  # which has it fetched
        wait_until(lambda: not shared.committed)
        store.flush()
        assert not disk.records


def test_object_store_alone_below_the_memory() -> None:
    bucket = shared_tier()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE, first=9)
    with closing(tiered_store(shared_tier(bucket), pages=4)) as store:
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=9)
        wait_until(lambda: not store.stats().used_bytes or store.host.evictable_bytes == store.host.used_bytes)
        fill_template(store, "b", SIZE, first=90)
        assert read_template(store, "a", SIZE) == values_of(SIZE, first=9)


def test_copy_that_fails_halfway_is_made_at_the_next_use() -> None:
    bucket = shared_tier()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE, first=3)
    shared, disk = shared_tier(bucket), FakeTier(10 * STORED_BYTES)
    shared.read_limit = 2
    with closing(tiered_store(disk, shared)) as store:
        assert store.holds("a")
        wait_until(lambda: shared.read_limit == -1)
        wait_until(lambda: not disk.records)
        shared.read_limit = None
        wait_until(lambda: read_template(store, "a", SIZE) is not None and "a" in disk.committed)
    assert disk.used_bytes == STORED_BYTES


def test_shared_template_larger_than_the_memory_reaches_the_disk() -> None:
    size = TemplateSize(12, 1, RECORD_BYTES)
    bucket = shared_tier()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", size)
    disk = FakeTier()
    with closing(tiered_store(disk, shared_tier(bucket), pages=4)) as store:
        assert store.holds("a")
        wait_until(lambda: "a" in disk.committed)


# Deletions that fail


@pytest.mark.parametrize("slow_seconds", [AN_HOUR, 0.0])
def test_deletions_that_fail_are_tried_again_and_hold_up_no_others(slow_seconds: float) -> None:
    bucket = shared_tier()
    times = ReplicatorTimes(retry_seconds=0.01, slow_seconds=slow_seconds)
    with closing(tiered_store(FakeTier(), bucket, times=times)) as store:
        for name in "abcd":
            fill_template(store, name, SIZE)
        wait_until(lambda: bucket.committed.keys() == set("abcd"))
        bucket.undeletable = True
        for name in "abcd":
            store.delete(name)
        wait_until(lambda: set(bucket.deletions) == set("abcd"))
        assert bucket.committed.keys() == set("abcd")
        bucket.undeletable_names = {"a", "c"}
        bucket.undeletable = False
        wait_until(lambda: bucket.committed.keys() == {"a", "c"})


def test_what_is_new_is_done_between_deletions_that_are_tried_again() -> None:
    bucket = shared_tier()
    bucket.undeletable = True
    with closing(tiered_store(FakeTier(), bucket, times=ReplicatorTimes(retry_seconds=0.0))) as store:
        store.delete("gone")
        wait_until(lambda: len(bucket.deletions) > 2)
        fill_template(store, "a", SIZE)
        wait_until(lambda: "a" in bucket.committed)


def test_tier_that_does_not_answer_is_left_alone_for_a_while() -> None:
    bucket = shared_tier()
    bucket.undeletable = True
    times = ReplicatorTimes(retry_seconds=AN_HOUR, slow_seconds=0.0)
    with closing(tiered_store(FakeTier(), bucket, times=times)) as store:
        for name in "abc":
            store.delete(name)
        wait_until(lambda: not store.lookup_blocks("x"))
        fill_template(store, "d", SIZE)
        store.flush()
    assert bucket.deletions == ["a"]
    assert not bucket.committed


@pytest.mark.parametrize(("end_seconds", "left"), [(AN_HOUR, set()), (0.0, {"a", "b", "c"})])
def test_close_tries_deletions_once_more_while_there_is_time(end_seconds: float, left: set[str]) -> None:
    bucket = shared_tier()
    with closing(tiered_store(FakeTier(), bucket, times=ReplicatorTimes(AN_HOUR, AN_HOUR, end_seconds))) as store:
        for name in "abc":
            fill_template(store, name, SIZE)
        wait_until(lambda: bucket.committed.keys() == set("abc"))
        bucket.undeletable = True
        for name in "abc":
            store.delete(name)
        wait_until(lambda: len(bucket.deletions) == 3)
        bucket.undeletable = False
    assert bucket.committed.keys() == left


def test_close_does_not_wait_for_every_copy_to_a_tier_that_fails() -> None:
    tried: list[str] = []

    class Unreachable(FakeTier):
        def manifest(self, template: str) -> Manifest | None:
            tried.append(template)
            assert self.gate.wait(10)
            return super().manifest(template)

    bucket = Unreachable(name="object", is_shared=True)
    bucket.gate.clear()
    bucket.broken = CacheError("unreachable")
    store = tiered_store(FakeTier(), bucket, times=ReplicatorTimes(end_seconds=0.0))
    for name in "abc":
        fill_template(store, name, SIZE)
    store.flush()
    close = threading.Thread(target=store.close)
    close.start()
    replicator = store._replicator
    assert replicator is not None
    wait_until(lambda: replicator._end_at < math.inf)
    bucket.gate.set()
    close.join()
    assert tried == ["a"]


def test_deletion_that_waits_is_not_asked_for_twice() -> None:
    bucket = shared_tier()
    bucket.delete_gate.clear()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        for name in "abab":
            store.delete(name)
        bucket.delete_gate.set()
    assert bucket.deletions == ["a", "b"]


def test_deletions_that_wait_are_bounded() -> None:
    bucket = shared_tier()
    bucket.delete_gate.clear()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        for number in range(10_000):
            store.delete(f"t{number}")
        with pytest.raises(CacheError, match="10000 deletions wait for the shared tiers"):
            store.delete("more")
        store.delete("t7")  # which waits already
        bucket.delete_gate.set()
    assert len(bucket.deletions) == 10_000
