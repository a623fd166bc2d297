"""The arena: one memory seen by several mappings, that outlives nobody's views."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from instgenie_cache import CacheError
from instgenie_cache.tiers.arena import PAGE_BYTES, Arena
from instgenie_cache.tiers.pages import Extent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is of Linux")
PAGE = mmap.PAGESIZE


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(8 * PAGE, PAGE)
    yield arena
    arena.close()


def test_slab_is_the_memory_of_its_extents_in_order(arena: Arena) -> None:
    slab = arena.slab([Extent(4 * PAGE, PAGE), Extent(0, 3)])
    slab.write(PAGE - 1, b"abcd")
    assert bytes(arena.slab([Extent(5 * PAGE - 1, 1)]).read(0, 1)) == b"a"
    assert bytes(arena.slab([Extent(0, 4)]).read(0, 4)) == b"bcd\0"


def test_arena_has_whole_pages_only() -> None:
    arena = Arena.create(3 * PAGE_BYTES - 1)
    assert (arena.num_bytes, arena.page_bytes) == (2 * PAGE_BYTES, PAGE_BYTES)
    arena.close()
    with pytest.raises(CacheError, match=f"at least one page of {PAGE_BYTES} bytes"):
        Arena.create(PAGE_BYTES - 1)


def test_memory_that_the_system_does_not_have_is_refused() -> None:
    num_bytes = 1 << 62
    with pytest.raises(CacheError, match=f"arena of {num_bytes} bytes"):
        Arena.create(num_bytes)


def test_attached_arena_sees_what_is_written(arena: Arena) -> None:
    writer = Arena.attach(arena.fd(writable=True), arena.num_bytes, writable=True)
    reader = Arena.attach(arena.fd(writable=False), arena.num_bytes, writable=False)
    writer.slab([Extent(PAGE, 5)]).write(0, b"hello")
    assert bytes(arena.slab([Extent(PAGE, 5)]).read(0, 5)) == b"hello"
    assert bytes(reader.slab([Extent(PAGE, 5)]).read(0, 5)) == b"hello"
    assert len({arena.address, writer.address, reader.address}) == 3
    writer.close()
    reader.close()


def test_reader_cannot_write(arena: Arena) -> None:
    reader = Arena.attach(arena.fd(writable=False), arena.num_bytes, writable=False)
    with pytest.raises(ValueError, match="read-only"):
        reader.slab([Extent(0, 1)]).write(0, b"x")
    with pytest.raises(CacheError, match="attached for reading only"):
        reader.fd(writable=True)
    with pytest.raises(CacheError, match="cannot map an arena"):
        Arena.attach(reader.fd(writable=False), arena.num_bytes, writable=True)
    reader.close()


def test_attached_arena_owns_its_descriptor(arena: Arena) -> None:
    lent = os.dup(arena.fd(writable=False))
    reader = Arena.attach(lent, arena.num_bytes, writable=False)
    os.close(lent)
    again = Arena.attach(reader.fd(writable=False), arena.num_bytes, writable=False)
    reader.close()
    assert bytes(again.slab([Extent(0, 1)]).read(0, 1)) == b"\0"
    again.close()


def test_descriptor_that_went_through_a_socket_maps_the_same_memory(arena: Arena) -> None:
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"x"], [arena.fd(writable=False)])
        _, (fd,), _, _ = socket.recv_fds(there, 1, 1)
    reader = Arena.attach(fd, arena.num_bytes, writable=False)
    os.close(fd)
    arena.slab([Extent(0, 2)]).write(0, b"ok")
    assert bytes(reader.slab([Extent(0, 2)]).read(0, 2)) == b"ok"
    reader.close()


def test_size_that_differs_is_refused(arena: Arena) -> None:
    with pytest.raises(CacheError, match=f"expected an arena of {PAGE} bytes, got one of {8 * PAGE}"):
        Arena.attach(arena.fd(writable=False), PAGE, writable=False)
    with pytest.raises(CacheError, match="cannot attach an arena"):
        Arena.attach(-1, PAGE, writable=False)


def test_size_is_sealed(arena: Arena) -> None:
    fd = arena.fd(writable=True)
    for num_bytes in (0, 16 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, num_bytes)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


@pytest.mark.parametrize("extent", [Extent(0, 8 * PAGE + 1), Extent(8 * PAGE, 1), Extent(-1, 1), Extent(5, -1)])
def test_extent_beyond_the_arena_is_refused(arena: Arena, extent: Extent) -> None:
    with pytest.raises(CacheError, match=rf"of an arena of {8 * PAGE}"):
        arena.slab([extent])


def test_views_outlive_the_arena(arena: Arena) -> None:
    slab = arena.slab([Extent(0, 5)])
    slab.write(0, b"hello")
    view = slab.read(1, 3)
    copied = np.asarray(view)
    arena.close()
    arena.close()
    del slab
    assert bytes(view) == b"ell"
    assert array.array("B", copied).tobytes() == b"ell"


def test_closed_arena_gives_nothing_and_leaves_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    arena = Arena.create(PAGE, PAGE)
    arena.fd(writable=False)
    slab = arena.slab([Extent(0, 1)])
    arena.close()
    for use in (lambda: arena.address, lambda: arena.fd(True), lambda: arena.slab([Extent(0, 1)])):
        with pytest.raises(CacheError, match="the arena is closed"):
            use()
    del slab
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
