"""A failing cache costs time, never an edit."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.request import EditResult
from instgenie.warm_request import WarmRequest
from instgenie_cache import (
    BeingWrittenError,
    CacheError,
    ChecksumError,
    MemoryStore,
    Record,
    RecordFormatError,
    RecordStore,
    StoreFullError,
    TemplateLease,
    TemplateSize,
    TemplateWriter,
    TierName,
)
from tests.instgenie.edits import (
    PLENTY_BYTES,
    BrokenStore,
    TappedLease,
    TappedStore,
    a_request,
    an_editor,
    pixels,
    watched,
)

STEPS, BLOCKS = 4, 2
TEMPLATE_BYTES = STEPS * BLOCKS * 2 * 64 * 2 * 16 * 4  # K and V of 64 tokens, 2 heads of 16 channels, float32


class RefusingStore(MemoryStore):
    """Takes `accepted` records, then no more."""

    def __init__(self, accepted: int = 0) -> None:
        super().__init__(PLENTY_BYTES)
        self.accepted = accepted

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        writer = super().create(template, size)
        put = writer.put

        def put_some(step: int, block: int, record: Record) -> None:
            self.accepted -= 1
            if self.accepted < 0:
                writer.abort()
                raise StoreFullError("no room")
            put(step, block, record)

        writer.put = put_some  # type: ignore[method-assign]
        return writer


class UnreadableStore(TappedStore):
    """Fails to read the records of some steps."""

    def __init__(self, steps: set[int]) -> None:
        super().__init__()
        self.steps = steps

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
        if step in self.steps:
            raise CacheError("cannot be read")
        return records


class LossyStore(TappedStore):
    """Has lost a record of some steps, and drops the template once it finds that out, unless `keeps`."""

    def __init__(self, steps: set[int], error: CacheError | None = None, *, keeps: bool = False) -> None:
        super().__init__()
        self.steps, self.error, self.keeps = steps, error, keeps

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
        if step not in self.steps:
            return records
        if not self.keeps:
            self.delete(template)
        if self.error is not None:
            raise self.error
        return None

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        self.steps = set() if self.reads else self.steps  # what is made anew is whole
        return super().create(template, size)


class GarblingStore(TappedStore):
    """Gives records that are not this model's K and V."""

    def __init__(self, codec: str = "raw", dtype: str = "float32", tokens: int = 64) -> None:
        super().__init__()
        self.codec, self.dtype, self.tokens = codec, dtype, tokens

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
        assert records is not None
        shape = (2, self.tokens, *records[0].shape[2:])
        num_bytes = math.prod(shape) * (2 if self.dtype == "bfloat16" else 4)
        return [Record(self.codec, self.dtype, shape, memoryview(bytearray(num_bytes))) for _ in records]


class FaultyLease(TappedLease):
    """A lease that is lost, with what its memory held, once `lost` steps were read; `fails` names what raises."""

    def __init__(self, store: FaultyStore, template: str, lease: TemplateLease) -> None:
        super().__init__(store, template, lease)
        self.faulty = store

    @property
    def tier(self) -> TierName:
        self.faulty.fail("tier")
        return super().tier

    @property
    def is_valid(self) -> bool:
        self.faulty.fail("is_valid")
        return super().is_valid and len(self.faulty.reads) < self.faulty.lost_at

    def prefetch(self, steps: Iterable[int]) -> None:
        self.faulty.fail("prefetch")
        self.faulty.prefetched += steps

    def step(self, step: int) -> Sequence[Record] | None:
        if len(self.faulty.reads) >= self.faulty.lost_at:
            raise CacheError("the lease was lost")
        records = super().step(step)
        if len(self.faulty.reads) < self.faulty.lost_at:
            return records
        assert records is not None  # the memory has been given to something else
        return [replace(r, payload=memoryview(bytes(r.num_bytes))) for r in records]


class FaultyStore(TappedStore):
    """Gives faulty leases."""

    def __init__(self, lost_at: int = 1000, fails: str = "") -> None:
        super().__init__()
        self.lost_at, self.fails, self.prefetched = lost_at, fails, list[int]()

    def lease(self, template: str) -> TemplateLease | None:
        lease = MemoryStore.lease(self, template)
        return None if lease is None else FaultyLease(self, template, lease)

    def fail(self, what: str) -> None:
        if what == self.fails:
            raise CacheError("connection lost")


def edited(checkpoint: Checkpoint, store: RecordStore) -> tuple[EditResult, bool]:
    """An edit with that store, and whether its picture is the dense one."""
    editor = an_editor(checkpoint, store)
    result, dense = editor.edit(a_request()), editor.dense(a_request())
    assert len(result.timings.step_ms) == STEPS
    return result, np.array_equal(pixels(result.picture), pixels(dense.picture))


def test_cached_picture_is_not_the_dense_one(builtin_kind: Checkpoint) -> None:
    """So that the tests below can tell one from the other."""
    result, is_dense = edited(builtin_kind, MemoryStore(PLENTY_BYTES))
    assert result.timings.dense_steps == 0
    assert not is_dense


@pytest.mark.parametrize("accepted", [0, 1, STEPS * BLOCKS - 1])
def test_store_that_refuses(builtin_kind: Checkpoint, accepted: int, caplog: pytest.LogCaptureFixture) -> None:
    store = RefusingStore(accepted)
    with caplog.at_level(logging.WARNING, "instgenie"):
        result, is_dense = edited(builtin_kind, store)
    assert is_dense
    assert (result.timings.cache, result.timings.dense_steps) == ("refused", STEPS)
    assert result.timings.tokens_active == result.timings.tokens_total
    assert "is not cached: no room" in caplog.text
    assert (store.stats().templates, store.stats().used_bytes) == (0, 0)


def test_budget_too_small_for_the_template(builtin_kind: Checkpoint) -> None:
    """Nothing is computed for it, and the templates that are there stay."""
    checkpoint, forward = watched(builtin_kind)
    store = MemoryStore(TEMPLATE_BYTES)
    small = a_request(steps=2)
    an_editor(checkpoint, store).edit(small)
    large = a_request(steps=5)
    forward.calls.clear()
    for _ in "ab":
        result = an_editor(checkpoint, store).edit(large)
        assert (result.timings.cache, result.timings.dense_steps) == ("refused", 5)
    assert len(forward.calls) == 2 * 5
    assert store.stats().evicted_templates == 0
    assert an_editor(checkpoint, store).edit(small).timings.cache == "hit"


def test_store_that_cannot_be_read(builtin_kind: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "instgenie"):
        result, is_dense = edited(builtin_kind, UnreadableStore(set(range(STEPS))))
    assert is_dense
    assert (result.timings.cache, result.timings.dense_steps) == ("partial", STEPS)
    assert "step 2 of template" in caplog.text
    assert "is computed densely: cannot be read" in caplog.text


@pytest.mark.parametrize("steps", [{0}, {1, 3}])
def test_some_steps_cannot_be_read(builtin_kind: Checkpoint, steps: set[int]) -> None:
    """The template stays: what cannot be read now may be readable later."""
    store = UnreadableStore(steps)
    result, is_dense = edited(builtin_kind, store)
    assert (result.timings.cache, result.timings.dense_steps) == ("partial", len(steps))
    assert not is_dense
    store.steps = set()
    assert an_editor(builtin_kind, store).edit(a_request()).timings.cache == "hit"


@pytest.mark.parametrize("error", [None, RecordFormatError("other version"), ChecksumError("flipped")])
@pytest.mark.parametrize("lost", [{2}, {0, 3}, set(range(STEPS))])
def test_lost_records_are_made_anew_by_the_next_edit(
    builtin_kind: Checkpoint, lost: set[int], error: CacheError | None
) -> None:
    store = LossyStore(lost, error)
    result, is_dense = edited(builtin_kind, store)
    assert (result.timings.cache, result.timings.dense_steps) == ("partial", len(lost))
    assert is_dense == (len(lost) == STEPS)
    timings = [an_editor(builtin_kind, store).edit(a_request()).timings for _ in "ab"]
    assert [(t.cache, t.dense_steps) for t in timings] == [("cold", 0), ("hit", 0)]


@pytest.mark.parametrize("error", [None, RecordFormatError("other version"), ChecksumError("flipped")])
def test_template_is_the_stores_to_drop_where_steps_are_lost(
    builtin_kind: Checkpoint, error: CacheError | None
) -> None:
    store = LossyStore({1}, error, keeps=True)
    editor = an_editor(builtin_kind, store)
    timings = [editor.edit(a_request()).timings for _ in "abc"]
    assert [(t.cache, t.dense_steps) for t in timings] == 3 * [("partial", 1)]
    assert store.stats().templates == 1


def test_lost_step_lets_the_device_copy_go(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, LossyStore({3}, keeps=True), device_cache_bytes=PLENTY_BYTES)
    with editor.start(a_request()) as running:
        while running.step < 3:
            running.advance()
        assert editor.shelf.device_tier.used_bytes == 3 * (TEMPLATE_BYTES // STEPS)
        running.advance()
    assert editor.shelf.device_tier.used_bytes == 0


def test_template_dropped_during_the_edit(builtin_kind: Checkpoint) -> None:
    """The edit holds a lease: it goes on as if nothing had happened."""

    class DroppingStore(TappedStore):
        def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
            self.delete(template)
            return records

    result, is_dense = edited(builtin_kind, DroppingStore())
    assert result.timings.dense_steps == 0
    assert not is_dense


def test_template_in_use_is_not_evicted(builtin_kind: Checkpoint) -> None:
    class CrowdedStore(TappedStore):
        def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
            with suppress(StoreFullError):
                self.create(f"other {step}", TemplateSize(1, 1, TEMPLATE_BYTES))
            return records

    store = CrowdedStore(TEMPLATE_BYTES)
    assert an_editor(builtin_kind, store).edit(a_request()).timings.dense_steps == 0
    assert store.stats().evicted_templates == 0


@pytest.mark.parametrize(
    "store",
    [GarblingStore(codec="int8"), GarblingStore(dtype="bfloat16"), GarblingStore(tokens=48)],
    ids=["codec", "dtype", "tokens"],
)
def test_records_that_are_not_the_models(builtin_kind: Checkpoint, store: GarblingStore) -> None:
    """Zeros of another dtype would be read without complaint, and give a wrong picture."""
    result, is_dense = edited(builtin_kind, store)
    assert is_dense
    assert (result.timings.cache, result.timings.dense_steps) == ("partial", STEPS)
    assert store.stats().templates == 0


def test_records_of_another_form_under_a_lost_lease_say_nothing(builtin_kind: Checkpoint) -> None:
    """The memory may have been given to something else: the template stays."""

    class Overwritten(FaultyStore):
        def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
            return None if records is None else [replace(record, codec="int8") for record in records]

    store = Overwritten(lost_at=1)
    assert an_editor(builtin_kind, store).edit(a_request()).timings.dense_steps == STEPS
    assert store.stats().templates == 1


class TakenStore(MemoryStore):
    """Refuses to have a template written: somebody else does, and has `finished` just now or not."""

    def __init__(self, *, finished: bool) -> None:
        super().__init__(PLENTY_BYTES)
        self.others = MemoryStore(PLENTY_BYTES)
        self.finished = finished

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        if self.finished:
            with super().create(template, size) as writer:
                lease = self.others.lease(template)
                assert lease is not None
                for step in range(size.steps):
                    for block, record in enumerate(lease.step(step) or ()):
                        writer.put(step, block, record)
                writer.commit()
        raise BeingWrittenError("being written by another writer")


@pytest.mark.parametrize("finished", [True, False])
def test_template_that_another_writer_has(builtin_kind: Checkpoint, finished: bool) -> None:
    """Its records are used where they are complete by then; nothing is waited for."""
    store = TakenStore(finished=finished)
    expected = an_editor(builtin_kind, store.others).edit(a_request())
    result, is_dense = edited(builtin_kind, store)
    timings = result.timings
    assert (timings.cache, timings.tier, timings.dense_steps) == (
        ("hit", "host", 0) if finished else ("refused", None, STEPS)
    )
    assert is_dense is not finished
    assert np.array_equal(pixels(result.picture), pixels(expected.picture)) is finished


@pytest.mark.parametrize(("finished", "outcome"), [(True, "hit"), (False, "refused")])
def test_template_to_warm_that_another_writer_has(builtin_kind: Checkpoint, finished: bool, outcome: str) -> None:
    store = TakenStore(finished=finished)
    request = WarmRequest(picture=a_request().picture)
    assert [window.outcome for window in an_editor(builtin_kind, store.others).warm(request)] == ["cold"]
    assert [window.outcome for window in an_editor(builtin_kind, store).warm(request)] == [outcome]


def test_store_that_answers_nothing(builtin_kind: Checkpoint) -> None:
    result, is_dense = edited(builtin_kind, BrokenStore(PLENTY_BYTES))
    assert is_dense
    assert (result.timings.cache, result.timings.dense_steps) == ("refused", STEPS)


def test_next_edit_records_again(builtin_kind: Checkpoint) -> None:
    store = RefusingStore(accepted=1)
    editor = an_editor(builtin_kind, store)
    assert editor.edit(a_request()).timings.dense_steps == STEPS
    store.accepted = 100
    timings = editor.edit(a_request()).timings
    assert (timings.cache, timings.dense_steps) == ("cold", 0)
    assert editor.edit(a_request()).timings.cache == "hit"


@pytest.mark.parametrize("lost", [set(), {1}])
def test_lease_that_cannot_be_released(builtin_kind: Checkpoint, lost: set[int]) -> None:
    class Stuck(LossyStore):
        def lease(self, template: str) -> TemplateLease | None:
            lease = super().lease(template)
            if lease is not None:
                lease.release = self.fail  # type: ignore[method-assign]
            return lease

        def fail(self) -> NoReturn:
            raise CacheError("connection lost")

    store = Stuck(lost, keeps=True)
    result, _ = edited(builtin_kind, store)
    assert result.timings.dense_steps == len(lost)
    assert store.holds("unknown") is False


def test_edit_that_fails_gives_its_lease_back(builtin_kind: Checkpoint) -> None:
    class FailingStore(TappedStore):
        def read(self, template: str, step: int, records: Sequence[Record] | None) -> NoReturn:
            raise KeyboardInterrupt

    store = FailingStore(TEMPLATE_BYTES)
    with pytest.raises(KeyboardInterrupt):
        an_editor(builtin_kind, store).edit(a_request())
    store.create("other", TemplateSize(1, 1, TEMPLATE_BYTES))  # refused if a lease were open


@pytest.mark.parametrize("device_cache_bytes", [0, PLENTY_BYTES])
@pytest.mark.parametrize("lost_at", range(1, STEPS + 1))
def test_step_whose_lease_is_lost_is_computed_densely(
    builtin_kind: Checkpoint, lost_at: int, device_cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """From the same latents: the picture is that of an edit which never saw the records of this step and the next."""
    an_editor(builtin_kind, expected := UnreadableStore(set())).edit(a_request())
    expected.steps = set(range(lost_at - 1, STEPS))
    an_editor(builtin_kind, store := FaultyStore()).edit(a_request())
    store.lost_at = len(store.reads) + lost_at
    editor = an_editor(builtin_kind, store, device_cache_bytes=device_cache_bytes)
    with caplog.at_level(logging.WARNING, "instgenie"):
        result = editor.edit(a_request())
    assert "was lost during a step" in caplog.text
    assert (result.timings.cache, result.timings.dense_steps) == ("partial", STEPS + 1 - lost_at)
    assert np.array_equal(pixels(result.picture), pixels(an_editor(builtin_kind, expected).edit(a_request()).picture))
    assert store.stats().templates == 1  # a lost lease says nothing of the records
    # What was read under a lost lease is not kept.
    assert editor.shelf.device_tier.used_bytes == (lost_at - 1) * (TEMPLATE_BYTES // STEPS) * (device_cache_bytes > 0)


@pytest.mark.parametrize("fails", ["prefetch", "tier", "is_valid"])
def test_lease_that_fails_otherwise(builtin_kind: Checkpoint, fails: str) -> None:
    an_editor(builtin_kind, store := FaultyStore()).edit(a_request())
    store.fails = fails
    timings = an_editor(builtin_kind, store).edit(a_request()).timings
    assert timings.dense_steps == (STEPS if fails == "is_valid" else 0)
    assert timings.tier == (None if fails == "tier" else "host")


def test_steps_are_asked_for_ahead(builtin_kind: Checkpoint) -> None:
    an_editor(builtin_kind, store := FaultyStore()).edit(a_request(strength=0.5))
    assert store.prefetched == [2, 3]


def test_store_that_cannot_be_flushed_nor_closed(builtin_kind: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    editor = an_editor(builtin_kind, BrokenStore(PLENTY_BYTES))
    with caplog.at_level(logging.WARNING, "instgenie"):
        editor.flush()
        editor.close()
    assert [record.message for record in caplog.records] == [
        "records may not last: connection lost",
        "the cache cannot be closed: connection lost",
    ]


def test_store_that_keeps_no_count(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, BrokenStore(PLENTY_BYTES))
    assert editor.pin("t") is False
    assert editor.num_bytes("t") is None
    assert editor.holds(a_request()) is False
    editor.unpin("t")
    with pytest.raises(CacheError):  # who deletes has to know
        editor.forget("t")
