"""How much memory decoded pictures may take: a file of some kilobytes may hold 64 million pixels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from instgenie_server.api_error import busy

RETRY_SECONDS = 2.0


class PixelBudget:
    """Bytes of decoded pictures that all requests together may hold. For any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        return self._held_bytes

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """A request's share, which it gives back at the end of the block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            with self._lock:
                hold.is_over = True
            self._give_back(hold)

    def _give_back(self, hold: Hold) -> None:
        with self._lock:
            self._held_bytes -= hold.num_bytes
            hold.num_bytes = 0

    def _take(self, hold: Hold, num_bytes: int) -> None:
        with self._lock:
            if hold.is_over:  # its client has left: nobody would give the bytes back
                raise busy("the request is over", RETRY_SECONDS, "pictures_busy")
            held_bytes = self._held_bytes + num_bytes
            # Pictures that exceed the budget alone are let in when no others are held, or they never would be.
            if held_bytes > self._limit_bytes and self._held_bytes != hold.num_bytes:
                raise busy(
                    f"pictures that are being edited hold {self._held_bytes:,} bytes; with {num_bytes:,} more that "
                    f"exceeds the limit of {self._limit_bytes:,}",
                    RETRY_SECONDS,
                    "pictures_busy",
                )
            self._held_bytes = held_bytes
            hold.num_bytes += num_bytes


class Hold:
    """The share of one request: `num_bytes` of the budget, until it `is_over`."""

    def __init__(self, budget: PixelBudget) -> None:
        self._budget = budget
        self.num_bytes = 0
        self.is_over = False

    def take(self, num_bytes: int) -> None:
        """Hold so many bytes more.

        Raises:
            ApiError: 429, the budget does not have them, or the request is over.
        """
        self._budget._take(self, num_bytes)

    def give_back(self) -> None:
        """Hold nothing any more, for now."""
        self._budget._give_back(self)
