"""Page-locking of the memory that records are read from: a CUDA device then copies from it directly, and meanwhile.

Pageable memory is copied twice, the first time by the CPU, which waits for it.
"""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

import torch

from instgenie_cache import CacheError
from instgenie_cache.records.slab import Slab
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.pages import Extent

log = logging.getLogger(__name__)

_PORTABLE, _READ_ONLY = 1, 8  # cudaHostRegisterPortable, cudaHostRegisterReadOnly


@runtime_checkable
class MappedStore(Protocol):
    """A store whose records lie in an arena that this process has mapped."""

    @property
    def arena(self) -> Arena | None:
        """The arena, another one after a reconnect; None while there is none."""
        ...


class HostMemory(Protocol):
    """What of `cupy.cuda.runtime` is used here. Raises `RuntimeError`."""

    def hostRegister(self, ptr: int, size: int, flags: int) -> None:  # noqa: N802
        """Page-lock memory."""
        ...

    def hostUnregister(self, ptr: int) -> None:  # noqa: N802
        """Undo it."""
        ...


class PageLock:
    """Keeps a store's arena page-locked, as it comes and goes. Not for use by several threads at once.

    Locking takes the arena's memory at once, and some seconds where it is large. A failure is logged once per arena:
    copies are pageable then.
    """

    def __init__(self, runtime: HostMemory | None) -> None:
        """Args:
        runtime: None locks nothing.
        """
        self._runtime = runtime
        self._arena: Arena | None = None
        self._locked: Slab | None = None  # keeps the mapping: memory must not be unmapped while it is locked
        self._address = 0

    @classmethod
    def on(cls, device: torch.device) -> PageLock:
        """Page-locks for copies to the device; nothing is locked where it is the CPU, or without cupy."""
        return cls(_cupy_runtime(device) if device.type == "cuda" else None)

    @property
    def num_bytes(self) -> int:
        """How much is locked."""
        return 0 if self._locked is None else self._locked.num_bytes

    def follow(self, store: object) -> None:
        """Lock the arena that the store has now, if it has one, and unlock the one that it had before."""
        if self._runtime is None or not isinstance(store, MappedStore):
            return
        arena = store.arena
        if arena is not self._arena:
            self.close()
            self._arena = arena
            if arena is not None:
                self._lock(arena, self._runtime)

    def close(self) -> None:
        """Unlock. A second time it does nothing."""
        locked, self._locked, self._arena = self._locked, None, None
        if locked is not None and self._runtime is not None:
            try:
                self._runtime.hostUnregister(self._address)
            except RuntimeError as error:
                log.warning("an arena of %d bytes cannot be unlocked: %s", locked.num_bytes, error)

    def _lock(self, arena: Arena, runtime: HostMemory) -> None:
        try:
            address, slab = arena.address, arena.slab([Extent(0, arena.num_bytes)])
            (memory,) = slab.views(0, slab.num_bytes)
            runtime.hostRegister(
                address, slab.num_bytes, _PORTABLE if memory.flags.writeable else _PORTABLE | _READ_ONLY
            )
        except (CacheError, RuntimeError) as error:  # the arena was closed meanwhile, or cannot be locked
            log.warning("an arena of %d bytes cannot be page-locked, copies are slower: %s", arena.num_bytes, error)
            return
        self._locked, self._address = slab, address


def _cupy_runtime(device: torch.device) -> HostMemory | None:
    try:
        from cupy.cuda import runtime  # here, for it is slow to import and there on CUDA machines alone
    except ImportError as error:
        log.warning("copies to %s are slower without cupy, which page-locks memory: %s", device, error)
        return None
    chosen: HostMemory = runtime
    return chosen
