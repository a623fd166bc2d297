"""Memory of one step's records: one stretch, or several pieces of an arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Slab:
    """Bytes 0..num_bytes, in pieces that need not be adjacent.

    Copies go through NumPy, which lets other threads run meanwhile; slices of a memoryview do not.
    """

    def __init__(self, pieces: Sequence[Bytes]) -> None:
        """Args:
        pieces: one-dimensional, contiguous arrays that make up the slab, in order. They are shared, not copied.
        """
        self._pieces = tuple(pieces)
        self.num_bytes = sum(piece.nbytes for piece in pieces)

    @classmethod
    def private(cls, num_bytes: int) -> Slab:
        """A slab in memory of its own."""
        return cls([np.empty(num_bytes, np.uint8)])

    def views(self, offset: int, length: int) -> list[Bytes]:
        """The pieces of a range, as writable as the memory is.

        Raises:
            ValueError: the range is not within the slab.
        """
        if not 0 <= offset <= offset + length <= self.num_bytes:
            raise ValueError(f"bytes {offset}..{offset + length} of a slab of {self.num_bytes}")
        return list(self._cut(offset, length))

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes of a range: a view where they lie in one piece, else a copy."""
        views = self.views(offset, length)
        whole = views[0] if len(views) == 1 else np.concatenate(views) if views else np.empty(0, np.uint8)
        return memoryview(whole)  # type: ignore[arg-type]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes to a range."""
        source = np.frombuffer(data, np.uint8)
        for view in self.views(offset, source.nbytes):
            np.copyto(view, source[: view.nbytes])
            source = source[view.nbytes :]

    def _cut(self, offset: int, length: int) -> Iterator[Bytes]:
        for piece in self._pieces:
            if length <= 0:
                return
            if offset < piece.nbytes:
                view = piece[offset : offset + length]
                length -= view.nbytes
                offset = 0
                yield view
            else:
                offset -= piece.nbytes
