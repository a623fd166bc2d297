"""Reading some blocks of a step, of every store that there is: in memory, from disk, and while others release."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from instgenie_cache import CacheError, RecordStore, TemplateLease, TemplateSize
from tests.cache.small_stores import RECORD_BYTES, fill_of, fill_template, values_of
from tests.cache.store_kinds import KINDS, LASTING_KINDS

SIZE = TemplateSize(steps=3, blocks=4, record_bytes=RECORD_BYTES // 2)
VALUES = values_of(SIZE)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    """With template `n/a`, in memory."""
    with request.param(tmp_path) as store:
        fill_template(store, "n/a", SIZE)
        yield store
        store.close()


@pytest.fixture(params=LASTING_KINDS)
def cold_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    """With template `n/a`, on disk alone."""
    with request.param(tmp_path) as before:
        fill_template(before, "n/a", SIZE)
        before.close()
    with request.param(tmp_path) as store:
        yield store
        store.close()


def leased(store: RecordStore) -> TemplateLease:
    lease = store.lease("n/a")
    assert lease is not None
    return lease


def blocks_of(lease: TemplateLease, step: int, first: int, stop: int) -> list[int] | None:
    """What the records are full of."""
    records = lease.blocks(step, first, stop)
    return None if records is None else [fill_of(record) for record in records]


RANGES = [(first, stop) for first in range(SIZE.blocks + 1) for stop in range(first, SIZE.blocks + 1)]


def test_blocks_in_memory_are_those_of_the_step(store: RecordStore) -> None:
    with leased(store) as lease:
        for step in (2, 0, 1, 1):
            for first, stop in RANGES:
                assert blocks_of(lease, step, first, stop) == VALUES[step][first:stop]
            assert [fill_of(record) for record in lease.step(step) or ()] == VALUES[step]
        assert lease.tiers() == ["host"] * SIZE.steps


def test_blocks_on_disk_are_read_without_their_step(cold_store: RecordStore) -> None:
    with leased(cold_store) as lease:
        for step in (1, 0):
            for first, stop in RANGES:
                assert blocks_of(lease, step, first, stop) == VALUES[step][first:stop]
        assert lease.tiers() == ["disk"] * SIZE.steps
        assert lease.step(0) is not None
        assert lease.tiers()[0] == "host"
        assert blocks_of(lease, 0, 1, 3) == VALUES[0][1:3]
        assert blocks_of(lease, 1, 1, 3) == VALUES[1][1:3]  # which may be on its way into memory


def test_blocks_and_steps_in_turns(cold_store: RecordStore) -> None:
    """As an edit reads whose first steps need all blocks: each step may be on its way into memory."""
    with leased(cold_store) as lease:
        lease.prefetch([0, 1, 2])
        for step in range(SIZE.steps):
            assert blocks_of(lease, step, 2, 4) == VALUES[step][2:]
            assert [fill_of(record) for record in lease.step(step) or ()] == VALUES[step]
            assert blocks_of(lease, step, 0, 1) == VALUES[step][:1]


@pytest.mark.parametrize(
    ("step", "first", "stop"), [(3, 0, 1), (-1, 0, 1), (0, 0, 5), (0, 4, 5), (0, -1, 1), (0, 3, 2), (3, 0, 0)]
)
def test_blocks_that_the_template_does_not_have_are_none(store: RecordStore, step: int, first: int, stop: int) -> None:
    with leased(store) as lease:
        assert lease.blocks(step, first, stop) is None
        assert blocks_of(lease, 0, 0, 1) == VALUES[0][:1]
    assert store.holds("n/a")


def test_blocks_that_were_read_from_disk_outlive_their_lease(cold_store: RecordStore) -> None:
    with leased(cold_store) as lease:
        records = [record for step in range(SIZE.steps) for record in lease.blocks(step, 1, 4) or ()]
    cold_store.delete("n/a")
    fill_template(cold_store, "n/a", SIZE, first=100)
    assert [fill_of(record) for record in records] == [value for step in VALUES for value in step[1:]]


def test_blocks_of_a_template_that_is_deleted_are_never_its_successors(cold_store: RecordStore) -> None:
    with leased(cold_store) as lease:
        assert blocks_of(lease, 0, 0, 2) == VALUES[0][:2]
        cold_store.delete("n/a")
        fill_template(cold_store, "n/a", SIZE, first=100)
        cold_store.flush()
        assert lease.blocks(0, 0, 2) is None
        assert lease.blocks(1, 0, 2) is None


def test_released_lease_has_neither_blocks_nor_tiers(store: RecordStore) -> None:
    lease = leased(store)
    lease.release()
    with pytest.raises(CacheError, match="released before"):
        lease.blocks(0, 0, 1)
    with pytest.raises(CacheError, match="released before"):
        lease.tiers()


def read_until_released(lease: TemplateLease, has_read: threading.Event, wrong: list[object]) -> None:
    try:
        while True:
            for step in range(SIZE.steps):
                for block in range(SIZE.blocks):
                    found = blocks_of(lease, step, block, block + 1)
                    if found != VALUES[step][block : block + 1]:
                        wrong.append(found)
                has_read.set()
    except CacheError:
        has_read.set()


def read_and_release(store: RecordStore) -> None:
    for _ in range(20):
        lease, has_read, wrong = leased(store), threading.Event(), list[object]()
        reader = threading.Thread(target=read_until_released, args=(lease, has_read, wrong))
        reader.start()
        assert has_read.wait(10)
        assert lease.is_valid
        lease.release()
        assert not lease.is_valid
        reader.join(10)
        assert not reader.is_alive()
        assert not wrong
    with leased(store) as lease:
        assert blocks_of(lease, 0, 0, 4) == VALUES[0]


def test_lease_may_be_released_while_another_thread_reads_memory(store: RecordStore) -> None:
    read_and_release(store)


def test_lease_may_be_released_while_another_thread_reads_the_disk(cold_store: RecordStore) -> None:
    read_and_release(cold_store)


def test_prefetch_of_a_template_brings_it_into_memory(cold_store: RecordStore) -> None:
    cold_store.prefetch("n/a")
    cold_store.prefetch("n/unknown")
    with leased(cold_store) as lease:
        pause = threading.Event()
        while lease.tiers() != ["host"] * SIZE.steps:  # the test's time limit ends it
            pause.wait(0.001)
        assert [blocks_of(lease, step, 0, 4) for step in range(SIZE.steps)] == VALUES


def test_prefetch_of_what_is_in_memory_changes_nothing(store: RecordStore) -> None:
    store.prefetch("n/a")
    store.prefetch("n/unknown")
    with leased(store) as lease:
        assert [blocks_of(lease, step, 0, 4) for step in range(SIZE.steps)] == VALUES
