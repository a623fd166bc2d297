"""A failing cache costs time, never an edit."""

from __future__ import annotations

import logging
from typing import NoReturn

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.request import EditResult
from instgenie_cache import CacheError, MemoryStore, Record, RecordKey, RecordStore, StoreFullError
from tests.instgenie.edits import PLENTY_BYTES, a_request, an_editor, pixels

STEPS, BLOCKS = 4, 2


class RefusingStore(MemoryStore):
    """Takes `accepted` records, then no more."""

    def __init__(self, accepted: int = 0) -> None:
        super().__init__(PLENTY_BYTES)
        self.accepted = accepted

    def put(self, key: RecordKey, record: Record) -> None:
        self.accepted -= 1
        if self.accepted < 0:
            self.delete(key.template)
            raise StoreFullError("no room")
        super().put(key, record)


class UnreadableStore(MemoryStore):
    """Fails to read the records of some steps."""

    def __init__(self, steps: set[int]) -> None:
        super().__init__(PLENTY_BYTES)
        self.steps = steps

    def get(self, key: RecordKey) -> Record | None:
        if key.step in self.steps:
            raise CacheError("cannot be read")
        return super().get(key)


class LossyStore(MemoryStore):
    """Has lost some records of a committed template."""

    def __init__(self, lost: set[tuple[int, int]]) -> None:
        super().__init__(PLENTY_BYTES)
        self.lost = lost

    def get(self, key: RecordKey) -> Record | None:
        return None if (key.step, key.block) in self.lost else super().get(key)


class ForgetfulStore(MemoryStore):
    """Drops the template after so many reads, as an eviction would."""

    def __init__(self, reads: int) -> None:
        super().__init__(PLENTY_BYTES)
        self.reads = reads

    def get(self, key: RecordKey) -> Record | None:
        if self.reads == 0:
            self.delete(key.template)
        self.reads -= 1
        return super().get(key)


class GarblingStore(MemoryStore):
    """Gives records that are not K and V."""

    def get(self, key: RecordKey) -> Record | None:
        record = super().get(key)
        return record and Record("int8", record.dtype, record.shape, record.payload)


class BrokenStore(MemoryStore):
    """Answers nothing at all, as one whose connection is lost."""

    def put(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def commit(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def get(self, *_: object) -> NoReturn:
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
    assert (result.timings.cache, result.timings.dense_steps) == ("cold", STEPS)
    assert "is not cached: no room" in caplog.text
    assert (store.stats().templates, store.stats().used_bytes) == (0, 0)


def test_budget_too_small_for_the_template(builtin_kind: Checkpoint) -> None:
    store = MemoryStore(50_000)  # one record takes 16,384 bytes, a template 131,072
    result, is_dense = edited(builtin_kind, store)
    assert is_dense
    assert result.timings.dense_steps == STEPS
    assert store.stats().used_bytes == 0


def test_store_that_cannot_be_read(builtin_kind: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "instgenie"):
        result, is_dense = edited(builtin_kind, UnreadableStore(set(range(STEPS))))
    assert is_dense
    assert result.timings.dense_steps == STEPS
    assert "step 2 of template" in caplog.text
    assert "is computed densely: cannot be read" in caplog.text


@pytest.mark.parametrize("steps", [{0}, {1, 3}])
def test_some_steps_cannot_be_read(builtin_kind: Checkpoint, steps: set[int]) -> None:
    result, is_dense = edited(builtin_kind, UnreadableStore(steps))
    assert result.timings.dense_steps == len(steps)
    assert not is_dense


@pytest.mark.parametrize(
    ("lost", "dense_steps"),
    [({(2, 1)}, 1), ({(2, 0), (2, 1)}, 1), ({(0, 0), (3, 1)}, 2), ({(step, 1) for step in range(STEPS)}, STEPS)],
)
def test_lost_blocks(builtin_kind: Checkpoint, lost: set[tuple[int, int]], dense_steps: int) -> None:
    result, is_dense = edited(builtin_kind, LossyStore(lost))
    assert result.timings.dense_steps == dense_steps
    assert is_dense == (dense_steps == STEPS)


@pytest.mark.parametrize(("reads", "dense_steps"), [(0, 4), (1, 4), (2, 3), (5, 2), (8, 0)])
def test_template_dropped_during_the_edit(builtin_kind: Checkpoint, reads: int, dense_steps: int) -> None:
    store = ForgetfulStore(reads)
    result, is_dense = edited(builtin_kind, store)
    assert result.timings.dense_steps == dense_steps
    assert is_dense == (dense_steps == STEPS)
    assert store.stats().templates == (dense_steps == 0)


def test_records_that_are_not_keys_and_values(builtin_kind: Checkpoint) -> None:
    result, is_dense = edited(builtin_kind, GarblingStore(PLENTY_BYTES))
    assert is_dense
    assert result.timings.dense_steps == STEPS


def test_store_that_answers_nothing(builtin_kind: Checkpoint) -> None:
    result, is_dense = edited(builtin_kind, BrokenStore(PLENTY_BYTES))
    assert is_dense
    assert result.timings.dense_steps == STEPS


def test_next_edit_records_again(builtin_kind: Checkpoint) -> None:
    store = RefusingStore(accepted=1)
    editor = an_editor(builtin_kind, store)
    assert editor.edit(a_request()).timings.dense_steps == STEPS
    store.accepted = 100
    timings = editor.edit(a_request()).timings
    assert (timings.cache, timings.dense_steps) == ("cold", 0)
    assert editor.edit(a_request()).timings.cache == "hit"
