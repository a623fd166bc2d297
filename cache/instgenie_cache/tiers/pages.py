"""Which pages of an arena are taken. Pure: it knows numbers, not memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of an arena: its first byte and how many."""

    offset: int
    length: int


class PageAllocator:
    """Gives out whole pages, in as few pieces as the free ones allow. Not thread-safe.

    Free pages are kept as runs, so the time and the memory it takes depend on how many stretches are free, not on how
    many pages there are.
    """

    def __init__(self, total_bytes: int, page_bytes: int) -> None:
        assert page_bytes > 0
        assert total_bytes >= 0
        assert total_bytes % page_bytes == 0, f"{total_bytes} bytes are no whole pages of {page_bytes}"
        self.total_bytes = total_bytes
        self.page_bytes = page_bytes
        self._taken: dict[int, int] = {}  # first page -> pages, of each piece that was given out
        # The free runs, none of them adjacent to another, seen from either end and by size.
        self._length_from: dict[int, int] = {}  # first page -> pages
        self._start_until: dict[int, int] = {}  # page behind the run -> first page
        self._by_length: list[tuple[int, int]] = []  # (pages, first page), sorted
        self._free_pages = total_bytes // page_bytes
        if self._free_pages:
            self._add_run(0, self._free_pages)

    @property
    def free_bytes(self) -> int:
        """What `allocate` can still give, in one call or many."""
        return self._free_pages * self.page_bytes

    @property
    def largest_free_bytes(self) -> int:
        """The longest stretch of free pages; less than `free_bytes` where they are fragmented."""
        return self._by_length[-1][0] * self.page_bytes if self._by_length else 0

    def pages_bytes(self, num_bytes: int) -> int:
        """What so many bytes take, in whole pages."""
        return -(-num_bytes // self.page_bytes) * self.page_bytes

    def allocate(self, num_bytes: int) -> tuple[Extent, ...] | None:
        """Take pages: the shortest free run that is long enough, else the longest ones.

        Args:
            num_bytes: more than 0.

        Returns:
            Pieces of `num_bytes` in all. Each begins with a page; the last one may end within one, the rest of which is
            taken too. None where too few pages are free.
        """
        assert num_bytes > 0, f"cannot allocate {num_bytes} bytes"
        pages = self.pages_bytes(num_bytes) // self.page_bytes
        if pages > self._free_pages:
            return None
        extents = []
        while pages:
            at_least = bisect_left(self._by_length, (pages, 0))
            length, start = self._by_length[at_least if at_least < len(self._by_length) else -1]
            piece = min(length, pages)
            self._remove_run(start, length)
            if piece < length:
                self._add_run(start + piece, length - piece)
            self._taken[start] = piece
            self._free_pages -= piece
            pages -= piece
            piece_bytes = min(piece * self.page_bytes, num_bytes)
            num_bytes -= piece_bytes
            extents.append(Extent(start * self.page_bytes, piece_bytes))
        return tuple(extents)

    def free(self, extents: Iterable[Extent]) -> None:
        """Give back what `allocate` gave, each piece whole."""
        for extent in extents:
            start, past_page = divmod(extent.offset, self.page_bytes)
            pages = self.pages_bytes(extent.length) // self.page_bytes
            assert past_page == 0, f"{extent} does not begin with a page"
            assert self._taken.get(start) == pages, f"{extent} was not given out, or is free already"
            del self._taken[start]
            self._free_pages += pages
            before = self._start_until.get(start)
            if before is not None:
                self._remove_run(before, start - before)
                start, pages = before, pages + start - before
            behind = self._length_from.get(start + pages)
            if behind is not None:
                self._remove_run(start + pages, behind)
                pages += behind
            self._add_run(start, pages)

    def _add_run(self, start: int, pages: int) -> None:
        self._length_from[start] = pages
        self._start_until[start + pages] = start
        insort(self._by_length, (pages, start))

    def _remove_run(self, start: int, pages: int) -> None:
        del self._length_from[start]
        del self._start_until[start + pages]
        del self._by_length[bisect_left(self._by_length, (pages, start))]
