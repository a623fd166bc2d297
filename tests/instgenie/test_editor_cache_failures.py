"""A failing cache costs time, never an edit."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.request import EditResult
from instgenie_cache import (
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
)
from tests.instgenie.edits import PLENTY_BYTES, TappedStore, a_request, an_editor, pixels, watched

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
    """Has lost a record of some steps, until the template is dropped and made anew."""

    def __init__(self, steps: set[int], error: CacheError | None = None) -> None:
        super().__init__()
        self.steps, self.error = steps, error

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
        if step not in self.steps:
            return records
        if self.error is not None:
            raise self.error
        return None

    def delete(self, template: str) -> None:
        super().delete(template)
        self.steps = set()


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


class BrokenStore(MemoryStore):
    """Answers nothing at all, as one whose connection is lost."""

    def create(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def lease(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def holds(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def delete(self, *_: object) -> NoReturn:
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

    store = Stuck(lost)
    result, _ = edited(builtin_kind, store)
    assert result.timings.dense_steps == len(lost)
    assert store.holds("unknown") is False
    assert store.stats().templates == (not lost)  # a damaged one is dropped all the same


def test_edit_that_fails_gives_its_lease_back(builtin_kind: Checkpoint) -> None:
    class FailingStore(TappedStore):
        def read(self, template: str, step: int, records: Sequence[Record] | None) -> NoReturn:
            raise KeyboardInterrupt

    store = FailingStore(TEMPLATE_BYTES)
    with pytest.raises(KeyboardInterrupt):
        an_editor(builtin_kind, store).edit(a_request())
    store.create("other", TemplateSize(1, 1, TEMPLATE_BYTES))  # refused if a lease were open
