"""Pages of an arena: never given out twice, never refused while enough are free."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache.tiers.pages import Extent, PageAllocator

PAGE = 4


def pages_of(extents: tuple[Extent, ...]) -> set[int]:
    """The pages that the extents lie on."""
    return {page for e in extents for page in range(e.offset // PAGE, -(-(e.offset + e.length) // PAGE))}


def free_runs(taken: set[int], num_pages: int) -> list[int]:
    """Lengths of the stretches of free pages, longest first."""
    marks = "".join("x" if page in taken else "." for page in range(num_pages))
    return sorted(map(len, marks.replace("x", " ").split()), reverse=True)


def fewest_pieces(pages: int, runs: list[int]) -> int:
    """How few of the runs have so many pages."""
    count = 0
    while pages > 0:
        pages -= runs[count]
        count += 1
    return count


@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(1, 40))
def test_allocator_against_a_set_of_pages(data: st.DataObject, num_pages: int) -> None:
    allocator = PageAllocator(num_pages * PAGE, PAGE)
    held: list[tuple[Extent, ...]] = []
    for _ in range(data.draw(st.integers(1, 40), "operations")):
        taken = set().union(*map(pages_of, held))
        runs = free_runs(taken, num_pages)
        assert allocator.free_bytes == sum(runs) * PAGE
        assert allocator.largest_free_bytes == max(runs, default=0) * PAGE
        frees = data.draw(st.booleans(), "free")
        if frees and held:
            allocator.free(held.pop(data.draw(st.integers(0, len(held) - 1), "which")))
            continue
        num_bytes = data.draw(st.integers(1, num_pages * PAGE + 1), "bytes")
        extents = allocator.allocate(num_bytes)
        needed = -(-num_bytes // PAGE)
        assert (extents is None) == (needed > sum(runs))
        if extents is not None:
            assert sum(e.length for e in extents) == num_bytes
            assert all(e.offset % PAGE == 0 for e in extents)
            assert all(e.length % PAGE == 0 for e in extents[:-1])
            assert len(pages_of(extents)) == needed
            assert not pages_of(extents) & taken
            assert max(pages_of(extents)) < num_pages
            assert len(extents) == fewest_pieces(needed, runs)
            held.append(extents)
    for extents in held:
        allocator.free(extents)
    assert allocator.free_bytes == allocator.largest_free_bytes == allocator.total_bytes


def test_the_shortest_run_that_is_long_enough_is_taken() -> None:
    allocator = PageAllocator(20 * PAGE, PAGE)
    pieces = [allocator.allocate(pages * PAGE) for pages in (5, 1, 3, 1, 10)]
    for index in (0, 2, 4):
        allocator.free(pieces[index] or ())
    assert allocator.allocate(2 * PAGE + 1) == (Extent(6 * PAGE, 2 * PAGE + 1),)
    assert allocator.allocate(4 * PAGE) == (Extent(0, 4 * PAGE),)
    assert allocator.allocate(11 * PAGE) == (Extent(10 * PAGE, 10 * PAGE), Extent(4 * PAGE, PAGE))
    assert allocator.allocate(1) is None


def test_what_was_not_given_out_cannot_be_freed() -> None:
    allocator = PageAllocator(8 * PAGE, PAGE)
    extents = allocator.allocate(3 * PAGE) or ()
    for foreign in (Extent(0, 2 * PAGE), Extent(PAGE, 2 * PAGE), Extent(1, 3 * PAGE), Extent(5 * PAGE, PAGE)):
        with pytest.raises(AssertionError, match="Extent"):
            allocator.free([foreign])
    allocator.free(extents)
    with pytest.raises(AssertionError, match="free already"):
        allocator.free(extents)
    assert allocator.free_bytes == 8 * PAGE


def test_arena_without_pages_has_room_for_nothing() -> None:
    allocator = PageAllocator(0, PAGE)
    assert allocator.allocate(1) is None
    assert (allocator.free_bytes, allocator.largest_free_bytes) == (0, 0)


def test_a_million_pages_in_single_pieces() -> None:
    allocator = PageAllocator(1_000_000 * PAGE, PAGE)
    singles = [allocator.allocate(1) for _ in range(5_000)]
    for extents in singles[::2]:
        allocator.free(extents or ())
    assert allocator.largest_free_bytes == 995_000 * PAGE
    extents = allocator.allocate(allocator.free_bytes)
    assert extents is not None
    assert len(extents) == 2_501
    assert allocator.free_bytes == 0
