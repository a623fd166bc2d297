"""Copies in a tier that other machines share: whose they are, when they are made again, what a silent tier costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from obstore.store import MemoryStore

from instgenie_cache import CacheError, RecordFormatError, RecordKey, TemplateSize
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.stores.replicator import ReplicatorTimes
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.object_tier import ObjectTier
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
from tests.cache.tiered import SIZE, STORED_BYTES, Counts, closing, closing_lease, push_out, wait_until


class Bucket(FakeTier):
    """A shared tier."""

    def __init__(self, content: FakeTier | None = None) -> None:
        super().__init__(name="object", is_shared=True, content=content)


class HeldTier(FakeTier):
    """A tier where one thread reads step 1 of "b", and is told what it found once it may be."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.thread: threading.Thread | None = None
        self.is_read, self.may_tell = threading.Event(), threading.Event()

    def read_step(self, template: str, size: TemplateSize, step: int, *arguments: Any, **options: Any) -> bool:
        try:
            return super().read_step(template, size, step, *arguments, **options)
        finally:
            if threading.current_thread() is self.thread and (template, step) == ("b", 1):
                self.is_read.set()
                assert self.may_tell.wait(10)


def is_in(store: TieredStore, template: str, *tiers: FakeTier) -> bool:
    """Whether the store knows that these tiers have all of it, and no others."""
    entry = store._state.entries.get(template)
    return entry is not None and entry.tiers == list(tiers)


def put_all(store: TieredStore, template: str, first: int, note: bytes = b"") -> None:
    with store.create(template, SIZE) as writer:
        for step in range(SIZE.steps):
            writer.put(step, 0, record_of(first + step))
        writer.commit(note=note)


# What is found out late


@contextmanager
def late_finding(disk: HeldTier, bucket: Bucket, what: str) -> Iterator[TieredStore]:
    """A thread that has read a broken record of "b", which another one has told of since, and is about to tell."""
    with closing(tiered_store(disk, bucket)) as store, ThreadPoolExecutor(1) as pool:
        for name in "ab":
            fill_template(store, name, SIZE, first=3)
        wait_until(lambda: all(is_in(store, name, disk, bucket) for name in "ab"))
        push_out(store)
        store.flush()
        disk.flip(RecordKey("b", 1, 0))
        with closing_lease(store, "b") as late, closing_lease(store, "b") as lease:

            def find() -> object:
                disk.thread = threading.current_thread()
                return late.blocks(1, 0, 1) if what == "reader" else store.sweep()

            finding = pool.submit(find)
            assert disk.is_read.wait(10)
            assert lease.step(1) is not None
            store.flush()
            assert is_in(store, "b", bucket)
            yield store
            disk.may_tell.set()
            finding.result(10)
            disk.gate.set()


@pytest.mark.parametrize("what", ["reader", "sweep"])
@pytest.mark.parametrize("is_mended", [True, False])
def test_what_is_found_out_of_a_copy_says_nothing_of_the_next_one(what: str, is_mended: bool) -> None:
    disk, bucket = HeldTier(), Bucket()
    with late_finding(disk, bucket, what) as store:
        if not is_mended:
            disk.gate.clear()  # the copy that mends it is being written
        with closing_lease(store, "b"):
            wait_until(lambda: is_in(store, "b", disk, bucket) if is_mended else _is_being_written(store, "b"))
    assert disk.committed.keys() == {"a", "b", "filler"}
    with closing(tiered_store(FakeTier(content=disk))) as store:
        assert read_template(store, "b", SIZE) == values_of(SIZE, first=3)


def _is_being_written(store: TieredStore, template: str) -> bool:
    entry = store._state.entries[template]
    return len(entry.unwritten) + len(entry.written) == SIZE.steps


def test_a_copy_that_breaks_while_it_is_committed_is_none() -> None:
    bucket = Bucket()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE, first=3)

    class LateTier(FakeTier):
        is_committing, may_commit = threading.Event(), threading.Event()

        def commit(self, manifest: Manifest) -> None:
            self.is_committing.set()
            assert self.may_commit.wait(10)
            super().commit(manifest)

    disk = LateTier()
    with closing(tiered_store(disk, bucket := Bucket(bucket), pages=2)) as store, closing_lease(store, "a") as lease:
        assert disk.is_committing.wait(10)
        in_memory = store._state.host.steps(store._state.entries["a"].host_name)
        early = min(set(range(SIZE.steps)) - set(in_memory))
        disk.flip(RecordKey("a", early, 0))
        assert lease.blocks(early, 0, 1) is not None  # from the object store
        disk.may_commit.set()
        store.flush()
        assert is_in(store, "a", bucket)
    assert not disk.records


# Whose copy it is


def test_a_copy_of_another_machine_is_left_alone() -> None:
    bucket = Bucket()
    with (
        closing(tiered_store(FakeTier(), bucket)) as here,
        closing(tiered_store(FakeTier(), there := Bucket(bucket))) as other,
    ):
        put_all(here, "a", first=1, note=b"here")
        wait_until(lambda: "a" in bucket.committed)
        put_all(other, "a", first=100, note=b"there")  # which it has not looked up
        other.flush()
        wait_until(lambda: not other._state.entries["a"].is_being_copied)
        assert read_template(other, "a", SIZE) == values_of(SIZE, first=100)
    assert not there.writes
    with closing(tiered_store(Bucket(bucket))) as third, closing_lease(third, "a") as lease:
        assert lease.note == b"here"
        assert read_template(third, "a", SIZE) == values_of(SIZE, first=1)


class GatedStore(MemoryStore):
    """An object store that holds what one machine writes."""

    gate: threading.Event
    held: threading.Event
    thread: threading.Thread | None

    def put(self, path: str, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is self.thread and path.endswith("=2"):
            self.held.set()
            assert self.gate.wait(10)
        return super().put(path, *arguments, **options)


@pytest.mark.parametrize("deletes", [True, False])
def test_steps_of_two_writings_are_not_mixed(deletes: bool) -> None:
    """Two machines write one template to an object store at the same time."""
    objects = GatedStore()
    objects.gate, objects.held, objects.thread = threading.Event(), threading.Event(), None
    with closing(tiered_store(ObjectTier(objects))) as here, closing(tiered_store(ObjectTier(objects))) as other:
        assert here._replicator is not None
        objects.thread = here._replicator._thread
        put_all(here, "a", first=1, note=b"here")
        assert objects.held.wait(10)
        if deletes:
            other.delete("a")
            wait_until(lambda: "a" not in other._state.deleting)
        put_all(other, "a", first=100, note=b"there")
        wait_until(lambda: ObjectTier(objects).manifest("a") is not None)
        objects.gate.set()
        wait_until(lambda: not here._state.entries["a"].is_being_copied)
        with closing(tiered_store(FakeTier(), ObjectTier(objects))) as third, closing_lease(third, "a") as lease:
            first = {b"here": 1, b"there": 100}[lease.note]
            assert all(
                value in (None, [first + step]) for step, value in enumerate(read_template(third, "a", SIZE) or ())
            )


@pytest.mark.parametrize("has_disk", [True, False])
def test_steps_that_were_written_anew_are_not_read_as_those_of_before(has_disk: bool) -> None:
    """A template that another machine deletes and writes anew while it is read here."""
    bucket = Bucket()
    with closing(tiered_store(bucket)) as here:
        put_all(here, "a", first=1)
        wait_until(lambda: "a" in bucket.committed)
        disk = [FakeTier()] if has_disk else []
        with closing(tiered_store(*disk, Bucket(bucket))) as store, closing_lease(store, "a") as lease:
            assert lease.step(0) is not None
            here.delete("a")
            wait_until(lambda: "a" not in bucket.committed)
            put_all(here, "a", first=100)
            wait_until(lambda: "a" in bucket.committed)
            late = [lease.step(step) for step in range(1, SIZE.steps)]
            values = [None if records is None else fill_of(records[0]) for records in late]
            assert all(value in (None, 1 + step) for step, value in enumerate(values, 1))
            store.flush()
        if has_disk:
            with closing(tiered_store(FakeTier(content=disk[0]))) as again:
                assert read_template(again, "a", SIZE) in (None, values_of(SIZE, first=1))
    assert bucket.committed.keys() == {"a"}  # it is the new one, and nobody's to delete


def test_a_copy_that_was_mended_meanwhile_is_not_deleted() -> None:
    """The machine that wrote it finds it broken, too, and is faster."""
    bucket = Bucket()
    with closing(tiered_store(FakeTier(), bucket)) as here:
        put_all(here, "a", first=1)
        wait_until(lambda: "a" in bucket.committed)
        manifest, records = bucket.committed["a"], dict(bucket.records)
        shared = Bucket(bucket)
        with closing(tiered_store(shared)) as store, closing_lease(store, "a") as lease:
            bucket.records.clear()
            shared.gate.clear()
            assert store._replicator is not None
            busy = threading.Event()
            store._replicator._queue.put(lambda: wait_until(busy.is_set))
            assert lease.step(0) is None
            bucket.records.update(records)
            busy.set()
        assert bucket.committed == {"a": manifest}
        assert not shared.deletions


def test_a_broken_manifest_in_the_shared_tier_is_replaced() -> None:
    class Spoilt(Bucket):
        is_spoilt = True

        def manifest(self, template: str) -> Manifest | None:
            if self.is_spoilt:
                raise RecordFormatError("a broken manifest")
            return super().manifest(template)

        def delete(self, template: str) -> None:
            self.is_spoilt = False
            super().delete(template)

    bucket = Spoilt()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE)
    assert bucket.committed.keys() == {"a"}


# When copies are made again


@pytest.mark.parametrize(("has_disk", "restarts"), [(True, True), (True, False), (False, False)])
def test_a_copy_that_failed_is_made_at_a_later_use(has_disk: bool, restarts: bool) -> None:
    disk, bucket = [FakeTier()] if has_disk else [], Bucket()
    bucket.broken = CacheError("an outage")
    times = ReplicatorTimes(retry_seconds=0.0)
    store = tiered_store(*disk, bucket, times=times)
    fill_template(store, "a", SIZE)
    store.flush()
    wait_until(lambda: not store._state.entries["a"].is_being_copied)
    if restarts:
        store.close()
        disk = [FakeTier(content=disk[0])]
        store = tiered_store(*disk, bucket := Bucket(bucket), times=times)
    bucket.broken = None
    with closing(store), closing_lease(store, "a"):
        wait_until(lambda: is_in(store, "a", *disk, bucket))


def test_a_copy_that_failed_is_not_tried_at_once() -> None:
    bucket = Bucket()
    bucket.broken = CacheError("an outage")
    with closing(tiered_store(FakeTier(), bucket, times=ReplicatorTimes(retry_seconds=3600.0))) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        wait_until(lambda: not store._state.entries["a"].is_being_copied)
        bucket.broken = None
        assert read_template(store, "a", SIZE) == values_of(SIZE)
    assert not bucket.committed


def test_a_copy_that_is_there_is_not_made_again_after_a_restart() -> None:
    disk, bucket = FakeTier(), Bucket()
    with closing(tiered_store(disk, bucket)) as store:
        fill_template(store, "a", SIZE)
    disk, bucket = FakeTier(content=disk), Bucket(bucket)
    with closing(tiered_store(disk, bucket)) as store, closing_lease(store, "a"):
        wait_until(lambda: is_in(store, "a", disk, bucket))
    assert not bucket.writes


def test_what_is_being_copied_is_not_evicted() -> None:
    disk, bucket = FakeTier(2 * STORED_BYTES), Bucket()
    bucket.gate.clear()
    with closing(tiered_store(disk, bucket)) as store:
        fill_template(store, "a", SIZE)
        store.flush()
        wait_until(lambda: store._state.entries["a"].leases == 1)
        for name in "bc":
            fill_template(store, name, SIZE)
            store.flush()
        assert store.holds("a")
        bucket.gate.set()
    assert "a" in bucket.committed


def test_what_copies_have_left_is_swept_from_the_shared_tier_too() -> None:
    swept = []

    class Swept(Bucket):
        def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
            swept.append(self.name)
            return super().sweep(should_stop)

    for cold in ([FakeTier(), Swept()], [Swept()]):
        with closing(tiered_store(*cold)) as store:
            store.sweep("mine")
            assert not swept
            store.sweep()
            assert swept.pop() == "object"
            cold[-1].broken = CacheError("unreachable")
            store.sweep()
            swept.clear()
            store.sweep(should_stop=lambda: True)
            assert not swept


def test_what_no_disk_could_hold_is_not_fetched_and_no_flush_tells_of_it() -> None:
    bucket = Bucket()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "large", TemplateSize(12, 1, RECORD_BYTES))
    disk = FakeTier(STORED_BYTES)
    with closing(tiered_store(disk, Bucket(bucket))) as store:
        assert store.holds("large")
        wait_until(lambda: not store._state.entries["large"].is_being_copied)
        store.flush()
    assert not disk.writes


def test_a_flush_tells_nothing_of_what_a_shared_tier_has() -> None:
    bucket = Bucket()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE)
    disk = FakeTier()
    disk.full_after = 1
    with closing(tiered_store(disk, Bucket(bucket))) as store:
        assert store.holds("a")
        wait_until(lambda: bool(disk.deletions))  # it was given up
        store.flush()


# A tier that does not answer


def test_a_silent_tier_is_asked_once_in_a_while() -> None:
    asked: list[str] = []

    class Silent(Bucket):
        def manifest(self, template: str) -> Manifest | None:
            asked.append(template)
            raise CacheError("timed out")

    times, counts = ReplicatorTimes(retry_seconds=3600.0, slow_seconds=0.0), Counts()
    with closing(tiered_store(FakeTier(), Silent(), times=times, observer=counts)) as store:
        assert store.lookup_blocks("x")
        for _ in range(3):
            assert store.lease("x") is None
            assert not store.lookup_blocks("x")
        fill_template(store, "a", SIZE)  # which is not copied
        assert read_template(store, "a", SIZE) == values_of(SIZE)
    assert asked == ["x"]
    assert counts.of["miss"] == 3


def test_what_is_there_is_found_without_asking_anybody() -> None:
    bucket = Bucket()
    with closing(tiered_store(FakeTier(), bucket)) as store:
        fill_template(store, "a", SIZE)
        wait_until(lambda: "a" in bucket.committed)
        bucket.broken = CacheError("nobody is to ask")
        assert not store.lookup_blocks("a")
        assert store.pin("a", look_up=False)
        assert store.num_bytes("a", look_up=False) == SIZE.num_bytes
        with closing_lease(store, "a"):
            pass
        assert store.lookup_blocks("b")
        assert store.lease("b", look_up=False) is None
        assert store.num_bytes("b", look_up=False) is None
        assert not store.pin("b", look_up=False)


def test_what_only_a_silent_tier_has_fails_at_once() -> None:
    bucket = Bucket()
    with closing(tiered_store(bucket)) as store:
        fill_template(store, "a", SIZE)
    times = ReplicatorTimes(retry_seconds=3600.0, slow_seconds=0.0)
    shared = HeldTier(name="object", is_shared=True, content=bucket)
    with closing(tiered_store(shared, times=times)) as store, closing_lease(store, "a") as lease:
        shared.broken = CacheError("timed out")
        with pytest.raises(CacheError, match="timed out"):
            lease.step(0)
        shared.broken = None
        with pytest.raises(CacheError, match="the object tier did not answer a little while ago"):
            lease.step(1)
    assert not shared.reads
