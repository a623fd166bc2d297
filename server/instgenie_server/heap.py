"""How glibc keeps the memory of pictures."""

from __future__ import annotations

import ctypes

# Numbers of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_MMAP_BYTES = 32 << 20  # the most that glibc takes
_TRIM_BYTES = 128 << 20


def keep_freed_memory() -> None:
    """Let freed blocks of up to 32 MiB stay with the process, 128 MiB of them.

    By default a block of a megabyte, which is what a decoded picture of 512x512 needs, goes back to the system when it
    is freed, and the next one is handed out page by page, zeroed: that doubled the processor time of a request
    (`scripts/bench/server.py`, 14 -> 9 ms of a PNG, 8 -> 4 ms of a JPEG). Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
