"""Requests per minute, by API key."""

from __future__ import annotations

import time
from collections.abc import Callable

from instgenie_server.access.moving_window import MovingWindow
from instgenie_server.api_error import busy

WINDOW_SECONDS = 60.0


class RateLimiter:
    """Lets each caller make `requests_per_minute` requests in any minute; None is no limit.

    Refused requests do not count, so that a client which keeps trying gets its share.
    """

    def __init__(self, requests_per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = None if requests_per_minute is None else MovingWindow(requests_per_minute, WINDOW_SECONDS)
        self._clock = clock

    def check(self, caller: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429 with the time after which the next one is let through.
        """
        if self._window is None:
            return
        wait_seconds = self._window.hit(caller, self._clock())
        if wait_seconds > 0:
            limit = self._window.limit
            raise busy(f"more than {limit} requests in a minute", wait_seconds, "rate_limit_exceeded")
