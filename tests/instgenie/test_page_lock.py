"""Page-locking: the arena that the store has, for as long as it has it; a failure costs speed only."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from instgenie.checkpoint import Checkpoint
from instgenie.page_lock import PageLock
from instgenie.records import payload_tensor
from instgenie_cache import MemoryStore
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.pages import Extent
from tests.instgenie.edits import PLENTY_BYTES, a_request, an_editor

PORTABLE, READ_ONLY = 1, 8


class Registry:
    """Keeps what is locked, as CUDA does; what is freed while it is locked is a mistake."""

    def __init__(self, error: RuntimeError | None = None) -> None:
        self.locked: dict[int, tuple[int, int]] = {}
        self.error = error
        self.calls = 0

    def hostRegister(self, ptr: int, size: int, flags: int) -> None:  # noqa: N802
        self.calls += 1
        if self.error is not None:
            raise self.error
        assert ptr not in self.locked
        self.locked[ptr] = size, flags

    def hostUnregister(self, ptr: int) -> None:  # noqa: N802
        if self.error is not None:
            raise self.error
        del self.locked[ptr]


class ArenaStore(MemoryStore):
    """A store with an arena."""

    def __init__(self, arena: Arena | None) -> None:
        super().__init__(PLENTY_BYTES)
        self.arena = arena


@pytest.fixture
def arena() -> Arena:
    """Of two pages."""
    return Arena.create(8192, page_bytes=4096)


def test_arena_is_locked_until_the_lock_is_closed(arena: Arena) -> None:
    lock = PageLock(registry := Registry())
    for _ in "ab":
        lock.follow(ArenaStore(arena))
        assert registry.locked == {arena.address: (8192, PORTABLE)}
        assert lock.num_bytes == 8192
    lock.close()
    lock.close()
    assert (registry.locked, lock.num_bytes) == ({}, 0)


def test_arena_that_is_mapped_for_reading(arena: Arena) -> None:
    theirs = Arena.attach(arena.fd(writable=False), 8192, writable=False, page_bytes=4096)
    PageLock(registry := Registry()).follow(ArenaStore(theirs))
    assert registry.locked == {theirs.address: (8192, PORTABLE | READ_ONLY)}


def test_arena_of_a_service_that_was_started_again(arena: Arena) -> None:
    store, other = ArenaStore(arena), Arena.create(4096, page_bytes=4096)
    lock = PageLock(registry := Registry())
    lock.follow(store)
    store.arena = None
    lock.follow(store)
    assert not registry.locked
    store.arena = other
    lock.follow(store)
    assert registry.locked == {other.address: (4096, PORTABLE)}


def test_memory_is_not_unmapped_while_it_is_locked(arena: Arena) -> None:
    lock = PageLock(registry := Registry())
    lock.follow(ArenaStore(arena))
    (address,) = registry.locked
    arena.close()
    assert b"memfd:instgenie-cache" in mapping_at(address)
    lock.close()
    assert b"memfd:instgenie-cache" not in mapping_at(address)


def mapping_at(address: int) -> bytes:
    """What this process has mapped there, as the kernel says."""
    with Path("/proc/self/maps").open("rb") as maps:
        for line in maps:
            first, last = (int(bound, 16) for bound in line.split()[0].split(b"-"))
            if first <= address < last:
                return line
    return b""


def test_failure_is_told_once(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    lock = PageLock(registry := Registry(RuntimeError("no memory")))
    with caplog.at_level(logging.WARNING, "instgenie"):
        for _ in "abc":
            lock.follow(ArenaStore(arena))
    assert registry.calls == 1
    assert [record.message for record in caplog.records] == [
        "an arena of 8192 bytes cannot be page-locked, copies are slower: no memory"
    ]
    assert lock.num_bytes == 0
    lock.close()


def test_arena_that_was_closed(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    arena.close()
    with caplog.at_level(logging.WARNING, "instgenie"):
        PageLock(registry := Registry()).follow(ArenaStore(arena))
    assert "the arena is closed" in caplog.text
    assert registry.calls == 0


def test_failure_to_unlock(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    lock = PageLock(registry := Registry())
    lock.follow(ArenaStore(arena))
    registry.error = RuntimeError("the driver is gone")
    with caplog.at_level(logging.WARNING, "instgenie"):
        lock.close()
    assert "cannot be unlocked: the driver is gone" in caplog.text


def test_nothing_to_lock(arena: Arena) -> None:
    registry = Registry()
    for store in (MemoryStore(1), ArenaStore(None)):
        PageLock(registry).follow(store)
    PageLock(None).follow(ArenaStore(arena))
    assert registry.calls == 0


def test_cpu_locks_nothing(builtin_kind: Checkpoint, arena: Arena) -> None:
    editor = an_editor(builtin_kind, ArenaStore(arena))
    editor.edit(a_request())
    lock = PageLock.on(torch.device("cpu"))
    lock.follow(editor.store)
    assert lock.num_bytes == 0
    editor.close()


@pytest.mark.gpu
def test_a_cuda_device_copies_from_locked_memory_without_waiting() -> None:
    pytest.importorskip("cupy")
    arena = Arena.create(64 << 20)
    slab = arena.slab([Extent(0, arena.num_bytes)])
    noise = np.random.default_rng(0).integers(0, 256, arena.num_bytes, np.uint8)
    slab.write(0, memoryview(noise))  # type: ignore[arg-type]
    source = payload_tensor(slab.read(0, arena.num_bytes))
    lock = PageLock.on(torch.device("cuda"))
    lock.follow(ArenaStore(arena))
    assert lock.num_bytes == arena.num_bytes
    torch.cuda._sleep(200_000_000)  # some 100 ms on the device
    copy = source.to("cuda", non_blocking=True)
    assert not torch.cuda.current_stream().query()  # pageable memory would have been waited for
    torch.cuda.synchronize()
    assert torch.equal(copy.cpu(), source)
    lock.close()
    lock.follow(ArenaStore(arena))  # it was unlocked: CUDA refuses memory that is locked already
    assert lock.num_bytes == arena.num_bytes
    lock.close()
