"""Records on their way to a store: in order, within a budget, and never longer than a store is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from instgenie.keyframes import Keyframes
from instgenie.record_queue import RecordQueue
from instgenie.records import DeviceRecord
from instgenie_cache import CacheError, StoreFullError, TemplateSize
from tests.instgenie.batches import CountedStore

CPU = torch.device("cpu")
SECONDS = 10.0
BYTES = 64


def a_record() -> DeviceRecord:
    return DeviceRecord(torch.zeros(BYTES, dtype=torch.uint8), "raw", torch.float32, (2, 8, 1, 1))


@pytest.fixture
def queue() -> Iterator[RecordQueue]:
    queue = RecordQueue(CPU, budget_bytes=2 * BYTES, patience_seconds=SECONDS)
    yield queue
    queue.close()


def outcome_of(queue: RecordQueue, store: CountedStore, puts: int = 4) -> Exception | None:
    """What came of a template of four steps."""
    writer = queue.writer(store.create("t", TemplateSize(4, 1, BYTES)))
    for step in range(puts):
        writer.put(step, 0, a_record())
    ends: list[Exception | None] = []
    ended = threading.Event()

    def done(error: Exception | None) -> None:
        ends.append(error)
        ended.set()

    writer.commit(1.0, Keyframes.every(4), done)
    assert ended.wait(SECONDS)
    return ends[0]


def test_records_are_put_in_order_and_committed(queue: RecordQueue) -> None:
    store = CountedStore()
    assert outcome_of(queue, store) is None
    assert store.puts == [(step, 0) for step in range(4)]
    assert store.holds("t")
    assert store.is_idle


def test_store_that_refuses_is_told_no_more(queue: RecordQueue) -> None:
    store, refused = CountedStore(), StoreFullError("no room")

    def refuse() -> None:
        if store.puts:
            raise refused

    store.on_put = refuse
    assert outcome_of(queue, store) is refused
    assert store.puts == [(0, 0)]
    assert store.is_idle
    assert store.stats().used_bytes == 0


@pytest.mark.parametrize("error", [CacheError("connection lost"), ZeroDivisionError()])
def test_store_that_fails_to_commit_and_to_abort(queue: RecordQueue, error: Exception) -> None:
    """Who waits for the commit is told all the same."""
    store = CountedStore()

    def fail() -> None:
        raise error

    store.on_commit = fail
    writer_of = store.create

    def create(template: str, size: TemplateSize) -> object:
        writer = writer_of(template, size)
        writer.abort = fail  # type: ignore[method-assign]
        return writer

    store.create = create  # type: ignore[method-assign, assignment]
    assert outcome_of(queue, store) is error
    assert outcome_of(queue, CountedStore()) is None


def test_incomplete_template_is_not_committed(queue: RecordQueue) -> None:
    store = CountedStore()
    assert isinstance(outcome_of(queue, store, puts=3), CacheError)
    assert not store.holds("t")


def test_aborted_template_leaves_nothing(queue: RecordQueue) -> None:
    store = CountedStore()
    writer = queue.writer(store.create("t", TemplateSize(4, 1, BYTES)))
    writer.put(0, 0, a_record())
    for _ in "ab":
        writer.abort()
    queue.close()
    assert store.is_idle
    assert store.stats().used_bytes == 0


def test_who_puts_more_than_the_budget_waits(queue: RecordQueue) -> None:
    store, reached, go = CountedStore(), threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go.wait(SECONDS)

    store.on_put = hold
    writer = queue.writer(store.create("t", TemplateSize(4, 1, BYTES)))
    writer.put(0, 0, a_record())
    assert reached.wait(SECONDS)
    writer.put(1, 0, a_record())  # what is put just now counts, too
    third = threading.Thread(target=lambda: writer.put(2, 0, a_record()))
    third.start()
    third.join(0.05)
    assert third.is_alive()
    go.set()
    third.join(SECONDS)
    queue.close()
    assert store.puts == [(0, 0), (1, 0), (2, 0)]
    assert writer.error is None


def test_store_that_hangs_is_waited_for_once(queue: RecordQueue) -> None:
    impatient = RecordQueue(CPU, budget_bytes=BYTES, patience_seconds=0.05)
    store, reached, go = CountedStore(), threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go.wait(SECONDS)

    store.on_put = hold
    writers = [impatient.writer(store.create(name, TemplateSize(4, 1, BYTES))) for name in "ab"]
    writers[0].put(0, 0, a_record())
    assert reached.wait(SECONDS)
    for step in range(1, 4):
        writers[0].put(step, 0, a_record())
    assert isinstance(writers[0].error, CacheError)
    assert str(writers[0].error) == "the store took no record for 0.05 s"
    writers[1].put(0, 0, a_record())
    assert writers[1].error is not None
    go.set()
    impatient.close()
    assert store.puts == [(0, 0)]
    assert store.is_idle  # they were aborted
    assert outcome_of(queue, store) is None


def test_one_record_may_be_larger_than_the_budget() -> None:
    queue, store = RecordQueue(CPU, budget_bytes=1, patience_seconds=SECONDS), CountedStore()
    assert outcome_of(queue, store) is None
    queue.close()
    queue.close()
