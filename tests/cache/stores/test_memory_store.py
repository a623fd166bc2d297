"""Templates in memory: visible once committed and whole, within the budget, least recently used out first."""

from __future__ import annotations

import threading

import pytest

from instgenie_cache import (
    CacheError,
    IncompleteTemplateError,
    MemoryStore,
    Record,
    RecordStore,
    StoreFullError,
    StoreStats,
    TemplateSize,
)


def record_of(num_bytes: int, fill: int = 0) -> Record:
    """A record of that many payload bytes."""
    return Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill]) * num_bytes))


def fill(store: RecordStore, template: str, num_bytes: int, value: int = 0) -> None:
    """Commit a template of one record."""
    with store.create(template, TemplateSize(1, 1, num_bytes)) as writer:
        writer.put(0, 0, record_of(num_bytes, value))
        writer.commit()


def read(store: RecordStore, template: str, step: int = 0) -> list[Record] | None:
    """A step of a template, or None where the template is not there."""
    lease = store.lease(template)
    if lease is None:
        return None
    with lease:
        records = lease.step(step)
        return None if records is None else list(records)


def test_template_is_visible_only_once_committed() -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(1, 1, 10))
    writer.put(0, 0, record_of(10))
    assert store.lease("a") is None
    assert not store.holds("a")
    assert store.num_bytes("a") is None
    assert store.stats() == StoreStats(0, 10, 100, hits=0, misses=1, evicted_templates=0)
    writer.commit()
    assert read(store, "a") == [record_of(10)]
    assert store.holds("a")
    assert store.num_bytes("a") == 10
    assert store.stats() == StoreStats(1, 10, 100, hits=1, misses=1, evicted_templates=0)


def test_step_gives_its_records_in_block_order() -> None:
    store = MemoryStore(100)
    with store.create("a", TemplateSize(2, 3, 10)) as writer:
        for step, block in ((1, 2), (0, 1), (1, 0), (0, 0), (0, 2), (1, 1)):
            writer.put(step, block, record_of(10, 10 * step + block))
        writer.commit()
    assert read(store, "a", 1) == [record_of(10, 10 + block) for block in range(3)]
    assert read(store, "a", 0) == [record_of(10, block) for block in range(3)]
    assert read(store, "a", 2) is None


def test_template_that_lacks_a_record_is_refused() -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(2, 2, 10))
    for step, block in ((0, 0), (0, 1), (1, 0)):
        writer.put(step, block, record_of(10))
    with pytest.raises(IncompleteTemplateError, match="3 of 4 records"):
        writer.commit()
    assert not store.holds("a")
    assert store.stats().used_bytes == 0


@pytest.mark.parametrize(("step", "block"), [(2, 0), (0, 3), (-1, 0)])
def test_record_outside_the_template(step: int, block: int) -> None:
    writer = MemoryStore(100).create("a", TemplateSize(2, 3, 10))
    with pytest.raises(CacheError, match=f"step {step}, block {block} of a template of 2 x 3 records"):
        writer.put(step, block, record_of(1))


def test_writers_of_one_template_do_not_mix_and_the_first_commit_counts() -> None:
    store = MemoryStore(100)
    first, second = (store.create("a", TemplateSize(1, 2, 10)) for _ in "ab")
    for block in range(2):
        first.put(0, block, record_of(10, 1))
        second.put(0, block, record_of(10, 2))
    second.commit()
    first.commit()
    assert read(store, "a") == [record_of(10, 2)] * 2
    assert store.stats().used_bytes == 20


def test_writer_that_fails_leaves_the_other_one_alone() -> None:
    store = MemoryStore(100)
    first, second = (store.create("a", TemplateSize(1, 1, 10)) for _ in "ab")
    first.put(0, 0, record_of(10, 1))
    second.abort()
    first.commit()
    assert read(store, "a") == [record_of(10, 1)]


def test_writer_is_done_after_commit_or_abort() -> None:
    store = MemoryStore(100)
    for end in ("commit", "abort"):
        writer = store.create(end, TemplateSize(1, 1, 10))
        writer.put(0, 0, record_of(10))
        getattr(writer, end)()
        writer.abort()
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.put(0, 0, record_of(10))
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.commit()
    assert (store.holds("commit"), store.holds("abort"), store.stats().used_bytes) == (True, False, 10)


def test_error_inside_a_writers_block_aborts_it() -> None:
    store = MemoryStore(100)
    try:
        with store.create("a", TemplateSize(1, 2, 10)) as writer:
            writer.put(0, 0, record_of(10))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert store.stats().used_bytes == 0
    fill(store, "b", 100)  # what was announced is free again
    assert store.holds("b")


def test_record_put_twice_counts_once_and_the_last_one_stays() -> None:
    store = MemoryStore(100)
    with store.create("a", TemplateSize(1, 1, 70)) as writer:
        for value in (1, 2, 3):
            writer.put(0, 0, record_of(70, value))
        writer.commit()
    assert store.stats().used_bytes == 70
    assert read(store, "a") == [record_of(70, 3)]


def test_least_recently_used_template_is_evicted_first() -> None:
    store = MemoryStore(30)
    for template in "abc":
        fill(store, template, 10)
    read(store, "a")
    fill(store, "d", 15)
    assert [template for template in "abcd" if store.holds(template)] == ["a", "d"]
    assert store.stats().evicted_templates == 2


def test_asking_whether_a_template_is_there_is_no_use_of_it() -> None:
    store = MemoryStore(20)
    fill(store, "a", 10)
    fill(store, "b", 10)
    store.holds("a")
    store.num_bytes("a")
    fill(store, "c", 10)
    assert not store.holds("a")
    assert store.holds("b")


def test_announced_template_that_cannot_fit_is_refused_before_anything_is_evicted() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    with pytest.raises(StoreFullError, match="a template of 31 bytes does not fit: 0 of 30 bytes"):
        store.create("b", TemplateSize(1, 1, 31))
    other = store.create("c", TemplateSize(1, 1, 15))
    with pytest.raises(StoreFullError, match="a template of 16 bytes does not fit: 15 of 30 bytes"):
        store.create("b", TemplateSize(1, 1, 16))
    assert store.holds("a")
    other.put(0, 0, record_of(15))
    other.commit()
    assert store.stats() == StoreStats(2, 25, 30, hits=0, misses=0, evicted_templates=0)


def test_writer_gets_the_room_it_announced() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20)
    writer = store.create("b", TemplateSize(1, 3, 10))
    for block in range(3):
        writer.put(0, block, record_of(10))
        assert store.holds("a") == (block == 0)  # nothing is evicted before the room is needed
    writer.commit()
    assert store.stats().used_bytes == 30


@pytest.mark.parametrize("num_bytes", [9, 11])
def test_record_of_another_length_is_refused_and_drops_the_half_written_template(num_bytes: int) -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(1, 2, 10))
    writer.put(0, 0, record_of(10))
    with pytest.raises(CacheError, match=f"a record of {num_bytes} bytes, 10 were announced"):
        writer.put(0, 1, record_of(num_bytes))
    assert store.stats().used_bytes == 0
    with pytest.raises(CacheError, match="committed or aborted before"):
        writer.commit()


def test_template_under_lease_is_not_evicted() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    fill(store, "b", 10)
    lease = store.lease("a")
    assert lease is not None
    fill(store, "c", 15)
    assert [template for template in "abc" if store.holds(template)] == ["a", "c"]
    with pytest.raises(StoreFullError, match="a template of 25 bytes does not fit: 10 of 30 bytes"):
        store.create("d", TemplateSize(1, 1, 25))
    lease.release()
    fill(store, "d", 25)
    assert [template for template in "abcd" if store.holds(template)] == ["d"]


def test_lease_that_came_after_the_announcement_refuses_the_record() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20)
    writer = store.create("b", TemplateSize(1, 1, 30))
    with store.lease("a") as lease:  # type: ignore[union-attr]
        with pytest.raises(StoreFullError, match="the rest is leased or pinned"):
            writer.put(0, 0, record_of(30))
        assert lease.step(0) == [record_of(20)]
    assert store.stats().used_bytes == 20
    fill(store, "b", 30)


def test_pinned_template_is_not_evicted_until_it_is_unpinned() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    fill(store, "b", 10)
    assert store.pin("a")
    assert store.pin("a")  # pinning twice is pinning once
    fill(store, "c", 15)
    assert [template for template in "abc" if store.holds(template)] == ["a", "c"]
    with pytest.raises(StoreFullError, match="a template of 25 bytes does not fit: 10 of 30 bytes"):
        store.create("d", TemplateSize(1, 1, 25))
    store.unpin("a")
    store.unpin("a")
    fill(store, "d", 25)
    assert [template for template in "abcd" if store.holds(template)] == ["d"]


def test_pin_is_of_templates_that_are_committed() -> None:
    store = MemoryStore(30)
    with store.create("a", TemplateSize(1, 1, 10)) as writer:
        writer.put(0, 0, record_of(10))
        assert not store.pin("a")
        writer.commit()
    store.unpin("unknown")
    fill(store, "b", 30)
    assert not store.holds("a")


def test_pin_and_lease_end_apart() -> None:
    store = MemoryStore(30)
    fill(store, "a", 30)
    assert store.pin("a")
    with store.lease("a") as lease:  # type: ignore[union-attr]
        store.unpin("a")
        with pytest.raises(StoreFullError):
            fill(store, "b", 10)
        assert store.pin("a")
        assert lease.step(0) == [record_of(30)]
    with pytest.raises(StoreFullError):
        fill(store, "b", 10)
    store.unpin("a")
    fill(store, "b", 10)


def test_pin_ends_with_the_deletion() -> None:
    store = MemoryStore(30)
    fill(store, "a", 30)
    store.pin("a")
    store.delete("a")
    fill(store, "a", 30)
    fill(store, "b", 30)
    assert not store.holds("a")


def test_pin_that_came_after_the_announcement_refuses_the_record() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20)
    writer = store.create("b", TemplateSize(1, 1, 30))
    store.pin("a")
    with pytest.raises(StoreFullError, match="the rest is leased or pinned"):
        writer.put(0, 0, record_of(30))
    assert store.holds("a")


def test_lease_says_where_the_template_was_and_whether_it_may_still_be_used() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    lease = store.lease("a")
    assert lease is not None
    lease.prefetch([0, 7])  # nothing to bring nearer
    assert (lease.tier, lease.is_valid) == ("host", True)
    store.delete("a")
    assert lease.is_valid
    lease.release()
    assert not lease.is_valid


def test_closed_store_is_empty() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    store.pin("a")
    store.flush()
    lease = store.lease("a")
    assert lease is not None
    writer = store.create("b", TemplateSize(1, 1, 10))
    writer.put(0, 0, record_of(10))
    store.close()
    store.close()
    writer.commit()
    lease.release()
    assert not store.holds("a")
    assert not store.holds("b")
    assert (store.stats().templates, store.stats().used_bytes) == (0, 0)


def test_lease_reads_on_after_a_delete_and_its_bytes_are_free() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20, value=7)
    lease = store.lease("a")
    assert lease is not None
    store.delete("a")
    store.delete("unknown")
    assert not store.holds("a")
    assert store.stats().used_bytes == 0
    fill(store, "a", 30)
    assert lease.step(0) == [record_of(20, 7)]
    lease.release()
    lease.release()
    assert read(store, "a") == [record_of(30)]
    with pytest.raises(CacheError, match="released before"):
        lease.step(0)


def test_deleted_template_does_not_come_back_with_a_commit_of_before() -> None:
    store = MemoryStore(30)
    writer = store.create("a", TemplateSize(1, 1, 10))
    writer.put(0, 0, record_of(10))
    store.delete("a")
    writer.commit()
    assert not store.holds("a")
    assert store.stats().used_bytes == 0
    fill(store, "a", 30)
    assert store.holds("a")


def test_many_threads_keep_the_books_straight() -> None:
    store = MemoryStore(400)
    mixed: list[str] = []

    def work(number: int) -> None:
        for round_ in range(60):
            template = f"{(number + round_) % 7}"
            with store.create(template, TemplateSize(1, 4, 5)) as writer:
                for block in range(4):
                    writer.put(0, block, record_of(5, number))
                writer.commit()
            records = read(store, template)
            if records is not None and len({record.payload[0] for record in records}) != 1:
                mixed.append(template)
            if round_ % 7 == 0:
                store.delete(template)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats()
    assert not mixed
    assert stats.hits + stats.misses == 4 * 60
    assert stats.used_bytes == 20 * stats.templates <= 400
