"""Shared memory of the host tier: one memfd, mapped by the service and by its clients on this machine. Linux only."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable
from typing import Self

import numpy as np

from instgenie_cache.errors import CacheError
from instgenie_cache.records.slab import Bytes, Slab
from instgenie_cache.tiers.pages import Extent

PAGE_BYTES = 2 << 20

# Measured, 512 MiB, one thread, GB/s: the first copy to fresh pages runs at 1.4, later ones at 12. Populating the pages
# first (MADV_POPULATE_WRITE) makes that 1.6 in all, which is not worth a call that blocks; MADV_HUGEPAGE makes it 1.2:
# zeroing is what takes the time, and a page is zeroed once in the life of the arena. So neither is used.


class Arena:
    """A stretch of shared memory and the file descriptors it is handed out by.

    Slabs are views: they keep the mapping, though not the descriptors, alive beyond `close`.
    """

    def __init__(self, fd: int, num_bytes: int, *, writable: bool, page_bytes: int) -> None:
        """Map an open file. Use `create` or `attach`.

        Args:
            fd: becomes the arena's own, also where this fails.
        """
        self._fds = {writable: fd}
        self.num_bytes = num_bytes
        self.page_bytes = page_bytes
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            mapping = mmap.mmap(fd, num_bytes, flags=mmap.MAP_SHARED, prot=protection)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise CacheError(f"cannot map an arena of {num_bytes} bytes: {error}") from error
        # The mapping is never closed by hand, which would fail while views of it are used: it goes with the last view.
        self._memory: Bytes | None = np.frombuffer(mapping, np.uint8)

    @classmethod
    def create(cls, num_bytes: int, page_bytes: int = PAGE_BYTES) -> Self:
        """New memory, of as many whole pages as `num_bytes` have. The system provides a page when it is first written.

        Its size is sealed: whoever is handed a descriptor can count on the mapping.

        Raises:
            CacheError: less than a page, or the system refuses.
        """
        num_bytes -= num_bytes % page_bytes
        if num_bytes <= 0:
            raise CacheError(f"an arena has at least one page of {page_bytes} bytes")
        try:
            fd = os.memfd_create("instgenie-cache", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise CacheError(f"cannot create an arena of {num_bytes} bytes: {error}") from error
        try:
            os.ftruncate(fd, num_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except (OSError, OverflowError) as error:
            os.close(fd)
            raise CacheError(f"cannot create an arena of {num_bytes} bytes: {error}") from error
        return cls(fd, num_bytes, writable=True, page_bytes=page_bytes)

    @classmethod
    def attach(cls, fd: int, num_bytes: int, writable: bool, page_bytes: int = PAGE_BYTES) -> Self:
        """Map the arena of another process.

        Args:
            fd: as `fd` hands it out; it is duplicated, and stays the caller's.
            writable: map it for writing, which takes a descriptor for writing.

        Raises:
            CacheError: the memory is not as large, or the descriptor does not allow it.
        """
        try:
            found_bytes = os.fstat(fd).st_size
            if found_bytes != num_bytes:
                raise CacheError(f"expected an arena of {num_bytes} bytes, got one of {found_bytes}")
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            raise CacheError(f"cannot attach an arena of {num_bytes} bytes: {error}") from error
        return cls(own, num_bytes, writable=writable, page_bytes=page_bytes)

    @property
    def address(self) -> int:
        """Where this process has mapped it, for page-locking."""
        address: int = self._mapped().ctypes.data
        return address

    def fd(self, writable: bool) -> int:
        """A descriptor to hand to another process; it stays the arena's, and open until `close`.

        The read-only one is an open file of its own: the other process cannot map it for writing.

        Raises:
            CacheError: the arena is closed, or writing is asked of one that is attached for reading.
        """
        self._mapped()
        if writable not in self._fds:
            if writable:
                raise CacheError("the arena is attached for reading only")
            try:
                self._fds[False] = os.open(f"/proc/self/fd/{self._fds[True]}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                hint = ", /proc is not mounted" if error.errno == errno.ENOENT else ""
                raise CacheError(f"cannot open the arena for reading{hint}: {error}") from error
        return self._fds[writable]

    def slab(self, extents: Iterable[Extent]) -> Slab:
        """The memory of these extents, in order, without a copy.

        Raises:
            CacheError: the arena is closed, or they reach beyond it.
        """
        memory = self._mapped()
        pieces = []
        for extent in extents:
            end = extent.offset + extent.length
            if not 0 <= extent.offset <= end <= self.num_bytes:
                raise CacheError(f"bytes {extent.offset}..{end} of an arena of {self.num_bytes}")
            pieces.append(memory[extent.offset : end])
        return Slab(pieces)

    def close(self) -> None:
        """Let go of the memory: it is unmapped when the last slab goes. A second time it does nothing."""
        self._memory = None
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _mapped(self) -> Bytes:
        if self._memory is None:
            raise CacheError("the arena is closed")
        return self._memory
