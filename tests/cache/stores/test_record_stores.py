"""What `RecordStore` promises, of every store that there is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest

from instgenie_cache import (
    BeingWrittenError,
    CacheError,
    IncompleteTemplateError,
    Record,
    RecordStore,
    StoreFullError,
    TemplateSize,
    TemplateWriter,
    TierName,
)
from instgenie_cache.records.manifest import MAX_NOTE_BYTES
from tests.cache.small_stores import (
    RECORD_BYTES,
    fill_of,
    fill_template,
    read_template,
    record_of,
    values_of,
)
from tests.cache.store_kinds import KINDS, ROOM, SIZE


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    """With room for `ROOM` templates of `SIZE`."""
    with request.param(tmp_path) as store:
        yield store
        store.close()


def fill_all(store: RecordStore) -> list[str]:
    """Write as many templates as there is room for."""
    names = [f"n/t{number}" for number in range(ROOM)]
    for number, name in enumerate(names):
        fill_template(store, name, SIZE, first=10 * number)
    store.flush()
    assert all(store.holds(name) for name in names)
    return names


# Writing


def test_template_is_seen_by_nobody_before_its_commit_and_then_whole(store: RecordStore) -> None:
    with store.create("n/a", SIZE) as writer:
        for step in range(2):
            for block in range(2):
                writer.put(step, block, record_of(2 * step + block))
                assert store.lease("n/a") is None
        assert not store.holds("n/a")
        assert store.num_bytes("n/a") is None
        writer.commit(cost_ms=12.5)
    assert store.holds("n/a")
    assert store.num_bytes("n/a") == SIZE.num_bytes
    assert read_template(store, "n/a", SIZE) == values_of(SIZE)


def test_records_come_back_as_they_were_put(store: RecordStore) -> None:
    size = TemplateSize(1, 2, 96)
    put = [
        Record("fp8", "bfloat16", (2, 3, 16), memoryview(bytes(range(96)))),
        Record("raw", "x", (), memoryview(b"7" * 96)),
    ]
    with store.create("n/a", size) as writer:
        for block in (1, 0):  # in any order
            writer.put(0, block, put[block])
        writer.commit()
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        found = lease.step(0)
        assert found is not None
        assert list(found) == put


def test_record_is_replaced_while_its_step_is_not_complete(store: RecordStore) -> None:
    with store.create("n/a", SIZE) as writer:
        for step in range(2):
            writer.put(step, 0, record_of(99))
            writer.put(step, 0, record_of(2 * step))
            writer.put(step, 1, record_of(2 * step + 1))
        writer.commit()
    assert read_template(store, "n/a", SIZE) == values_of(SIZE)


def test_commit_without_all_records_is_refused_and_ends_the_writer(store: RecordStore) -> None:
    writer = store.create("n/a", SIZE)
    for step, block in ((0, 0), (0, 1), (1, 1)):
        writer.put(step, block, record_of(0))
    with pytest.raises(IncompleteTemplateError, match="3 of 4 records"):
        writer.commit()
    with pytest.raises(CacheError):
        writer.put(1, 0, record_of(0))
    assert not store.holds("n/a")
    fill_template(store, "n/a", SIZE)
    assert store.holds("n/a")


@pytest.mark.parametrize(
    ("step", "block", "num_bytes"),
    [(2, 0, RECORD_BYTES), (0, 2, RECORD_BYTES), (0, 0, RECORD_BYTES - 1), (0, 0, RECORD_BYTES + 1), (0, 0, 0)],
)
def test_record_that_was_not_announced_is_refused_and_ends_the_writer(
    store: RecordStore, step: int, block: int, num_bytes: int
) -> None:
    writer = store.create("n/a", SIZE)
    with pytest.raises(CacheError, match=r"2 x 2 records|3840 were announced"):
        writer.put(step, block, record_of(0, num_bytes))
    with pytest.raises(CacheError):
        writer.put(0, 0, record_of(0))
    with pytest.raises(CacheError):
        writer.commit()
    writer.abort()
    assert store.stats().used_bytes == 0


def test_writer_that_is_left_without_a_commit_leaves_nothing(store: RecordStore) -> None:
    writer = store.create("n/a", SIZE)
    with suppress(ZeroDivisionError), writer:
        for step in range(2):
            for block in range(2):
                writer.put(step, block, record_of(0))
        raise ZeroDivisionError
    assert not store.holds("n/a")
    writer.abort()
    assert store.stats().used_bytes == 0
    fill_template(store, "n/a", SIZE, first=1)
    assert read_template(store, "n/a", SIZE) == values_of(SIZE, first=1)


def test_abort_after_a_commit_does_nothing(store: RecordStore) -> None:
    with store.create("n/a", TemplateSize(1, 1, 10)) as writer:
        writer.put(0, 0, record_of(3, 10))
        writer.commit()
        writer.abort()
    assert store.holds("n/a")
    with pytest.raises(CacheError):
        writer.commit()


def test_template_that_was_first_stays(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE, first=1)
    with suppress(BeingWrittenError):
        fill_template(store, "n/a", SIZE, first=2)
    assert read_template(store, "n/a", SIZE) == values_of(SIZE, first=1)
    assert store.stats().templates == 1


def test_of_two_writers_at_a_time_neither_sees_the_records_of_the_other(store: RecordStore) -> None:
    size = TemplateSize(1, 2, 100)
    with store.create("n/a", size) as first:
        first.put(0, 0, record_of(1, 100))
        try:
            second = store.create("n/a", size)
        except BeingWrittenError:
            pass  # one at a time
        else:
            second.put(0, 1, record_of(2, 100))
            with pytest.raises(IncompleteTemplateError):
                second.commit()
        first.put(0, 1, record_of(1, 100))
        first.commit()
    assert read_template(store, "n/a", size) == [[1, 1]]


def put_steps(writer: TemplateWriter, steps: int, first: int = 0) -> None:
    """The first steps of a template of `SIZE`'s blocks, as `fill_template` does."""
    for step in range(steps):
        for block in range(SIZE.blocks):
            writer.put(step, block, record_of(first + step * SIZE.blocks + block))


def test_template_may_have_fewer_steps_than_were_announced(store: RecordStore) -> None:
    with store.create("n/a", TemplateSize(6, SIZE.blocks, RECORD_BYTES)) as writer:
        put_steps(writer, 2, first=5)
        writer.commit(steps=2)
    assert store.num_bytes("n/a") == store.stats().used_bytes == SIZE.num_bytes
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        assert lease.step(2) is None
    store.flush()
    for number in range(1, ROOM):  # the room of the others was given back
        fill_template(store, f"n/{number}", SIZE)
        store.flush()
    assert read_template(store, "n/a", SIZE) == values_of(SIZE, first=5)
    assert store.stats().evicted_templates == 0


@pytest.mark.parametrize(
    ("steps", "note", "why"),
    [
        (0, b"", "0 steps of a template of 6"),
        (7, b"", "7 steps of a template of 6"),
        (1, b"", "a record of step 1 was put, the template is to have 1 steps"),
        (3, b"", "4 of 6 records were put"),
        (2, bytes(MAX_NOTE_BYTES + 1), "a note of 4097 bytes, 4096 are allowed"),
    ],
)
def test_commit_of_what_was_not_put_is_refused_and_ends_the_writer(
    store: RecordStore, steps: int, note: bytes, why: str
) -> None:
    writer = store.create("n/a", TemplateSize(6, SIZE.blocks, RECORD_BYTES))
    put_steps(writer, 2)
    with pytest.raises(CacheError, match=why):
        writer.commit(steps=steps, note=note)
    with pytest.raises(CacheError):
        writer.commit()
    writer.abort()
    assert not store.holds("n/a")
    assert store.stats().used_bytes == 0


@pytest.mark.parametrize("note", [b"", b"\0\xff kept: 1, 3", bytes(range(256)) * (MAX_NOTE_BYTES // 256)], ids=len)
def test_readers_are_given_the_note(store: RecordStore, note: bytes) -> None:
    fill_template(store, "n/plain", SIZE)
    with store.create("n/a", SIZE) as writer:
        put_steps(writer, 2)
        writer.commit(note=note)
    store.flush()
    for template, expected in (("n/a", note), ("n/plain", b"")):
        lease = store.lease(template)
        assert lease is not None
        with lease:
            assert lease.note == expected


# Reading


def test_unknown_template_is_none_and_no_error(store: RecordStore) -> None:
    assert store.lease("n/a") is None
    assert not store.holds("n/a")
    assert store.num_bytes("n/a") is None
    assert not store.pin("n/a")
    store.unpin("n/a")
    store.delete("n/a")
    store.flush()


def test_lease_ends_once_and_is_not_to_be_used_then(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE)
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        assert lease.is_valid
        assert lease.step(1) is not None
    assert not lease.is_valid
    lease.release()
    with pytest.raises(CacheError):
        lease.step(0)


def test_step_beyond_the_template_is_none(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE)
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        assert lease.step(2) is None
        assert lease.step(-1) is None
        assert lease.step(1) is not None


def test_the_last_two_steps_that_were_read_stay(store: RecordStore) -> None:
    size = TemplateSize(8, 1, 1000)
    fill_template(store, "n/a", size)
    lease = store.lease("n/a")
    assert lease is not None
    order = [*range(8), 3, 0, 7, 1]
    with lease:
        before: tuple[int, Record] | None = None
        for step in order:
            (record,) = lease.step(step) or ()
            for number, kept in ((step, record), *([before] if before else [])):
                assert bytes(kept.payload) == bytes([number]) * 1000
            before = step, record


def test_prefetch_of_anything_is_no_error(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE)
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        lease.prefetch([1, 0, 1])
        lease.prefetch([7, -1])
        lease.prefetch(iter([]))
        assert lease.step(0) is not None
    lease.prefetch([0])


def test_tier_is_where_the_template_was(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE)
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        assert lease.tier in get_args(TierName)
        assert lease.tier == "host"  # where it was written


# Who goes, who stays


def test_template_larger_than_the_store_is_refused_and_nothing_goes_for_it(store: RecordStore) -> None:
    names = fill_all(store)
    with pytest.raises(StoreFullError, match="does not fit"):
        store.create("n/large", TemplateSize(ROOM * SIZE.steps + 1, SIZE.blocks, RECORD_BYTES))
    assert all(store.holds(name) for name in names)
    assert store.stats().evicted_templates == 0


def test_one_more_than_fits_makes_another_go(store: RecordStore) -> None:
    names = fill_all(store)
    fill_template(store, "n/more", SIZE, first=77)
    store.flush()
    assert read_template(store, "n/more", SIZE) == values_of(SIZE, first=77)
    held = [name for name in names if store.holds(name)]
    stats = store.stats()
    assert stats.evicted_templates == len(names) - len(held) > 0
    assert stats.templates == len(held) + 1
    assert stats.used_bytes == stats.templates * SIZE.num_bytes
    for number, name in enumerate(names):
        assert read_template(store, name, SIZE) == (values_of(SIZE, first=10 * number) if name in held else None)


@pytest.mark.parametrize("holds_by", ["lease", "pin"])
def test_what_is_leased_or_pinned_stays(store: RecordStore, holds_by: str) -> None:
    names = fill_all(store)
    kept = names[0]  # which least recently used would be the first to go
    lease = store.lease(kept) if holds_by == "lease" else None
    if holds_by == "pin":
        assert store.pin(kept)
    for number in range(2 * ROOM):
        fill_template(store, f"n/more{number}", SIZE)
        store.flush()
        assert store.holds(kept)
    assert store.stats().evicted_templates >= ROOM
    if lease is not None:
        lease.release()
    assert read_template(store, kept, SIZE) == values_of(SIZE)


def test_where_all_is_pinned_a_writer_is_refused_until_one_is_not(store: RecordStore) -> None:
    names = fill_all(store)
    for name in names:
        assert store.pin(name)
    with pytest.raises(StoreFullError, match="does not fit"):
        store.create("n/more", SIZE)
    store.pin(names[1])  # pinning twice is pinning once
    store.unpin(names[1])
    fill_template(store, "n/more", SIZE)
    store.flush()
    assert store.holds("n/more")
    assert [name for name in names if not store.holds(name)] == [names[1]]


# Deleting


def test_deleted_template_is_gone_and_can_be_written_anew(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE, first=1)
    store.flush()
    assert store.pin("n/a")
    store.delete("n/a")
    store.delete("n/a")
    assert not store.holds("n/a")
    assert store.lease("n/a") is None
    assert store.num_bytes("n/a") is None
    assert store.stats().used_bytes == 0
    fill_template(store, "n/a", SIZE, first=2)
    store.flush()
    assert read_template(store, "n/a", SIZE) == values_of(SIZE, first=2)
    assert store.stats().evicted_templates == 0


def test_template_that_is_deleted_under_lease_is_never_mixed_up_with_its_successor(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE, first=1)
    lease = store.lease("n/a")
    assert lease is not None
    with lease:
        first = lease.step(0)
        assert first is not None
        store.delete("n/a")
        assert not store.holds("n/a")
        fill_template(store, "n/a", SIZE, first=50)
        again, second = lease.step(0), lease.step(1)
        assert again is not None
        assert [fill_of(record) for record in (*first, *again)] == [1, 2, 1, 2]
        assert second is None or [fill_of(record) for record in second] == [3, 4]
    assert read_template(store, "n/a", SIZE) == values_of(SIZE, first=50)


def test_what_was_being_written_when_it_was_deleted_does_not_become_visible(store: RecordStore) -> None:
    with store.create("n/a", TemplateSize(1, 2, 100)) as writer:
        writer.put(0, 0, record_of(1, 100))
        store.delete("n/a")
        writer.put(0, 1, record_of(1, 100))
        writer.commit()
    assert not store.holds("n/a")
    assert store.stats().used_bytes == 0


# Books


def test_hits_and_misses_count_leases_alone(store: RecordStore) -> None:
    before = store.stats()
    assert (before.templates, before.used_bytes, before.hits, before.misses, before.evicted_templates) == (0,) * 5
    assert before.budget_bytes >= ROOM * SIZE.num_bytes
    fill_template(store, "n/a", SIZE)
    assert read_template(store, "n/a", SIZE) is not None
    assert read_template(store, "n/a", SIZE) is not None
    assert store.lease("n/b") is None
    for name in ("n/a", "n/b"):
        store.holds(name)
        store.num_bytes(name)
    stats = store.stats()
    assert (stats.hits, stats.misses) == (2, 1)
    assert (stats.templates, stats.used_bytes) == (1, SIZE.num_bytes)


def test_threads_write_and_read_side_by_side(store: RecordStore) -> None:
    size = TemplateSize(2, 1, 500)

    def work(number: int) -> None:
        name = f"n/{number}"
        for turn in range(5):
            fill_template(store, name, size, first=10 * number + turn)
            found = read_template(store, name, size)
            assert found in (values_of(size, first=10 * number + turn), None)  # None: evicted
            store.delete(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    store.flush()
    assert store.stats().used_bytes == 0


def test_closing_twice_does_nothing_more(store: RecordStore) -> None:
    fill_template(store, "n/a", SIZE)
    store.close()
    store.close()
