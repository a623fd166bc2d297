"""How much may be on its way to a service that has not answered yet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class CreditRequest:
    """Someone who wants to send so many bytes; `granted` is told once whether that may be."""

    num_bytes: int
    granted: Callable[[bool], None]


class CreditGate:
    """Lets payloads pass, first come, first served, while those that passed and are not answered stay within a limit.

    One that is larger than the limit passes alone. Safe to use from several threads: `granted` is called by the thread
    that asks, or by the one that gives credit back.
    """

    def __init__(self, limit_bytes: int, limit_count: int) -> None:
        self._limit_bytes, self._limit_count = limit_bytes, limit_count
        self._used_bytes = self._used_count = 0
        self._waiting: deque[CreditRequest] = deque()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What has passed and is not answered."""
        return self._used_bytes

    def take(self, num_bytes: int, granted: Callable[[bool], None]) -> CreditRequest:
        """Ask for credit. `granted` is called with True at once or later, or with False when the gate is closed."""
        request = CreditRequest(num_bytes, granted)
        with self._lock:
            if not self._is_closed:
                self._waiting.append(request)
            refused = [request] if self._is_closed else []
            passing = self._pass()
        _tell(refused, False)
        _tell(passing, True)
        return request

    def cancel(self, request: CreditRequest) -> bool:
        """Stop waiting. False where the credit was granted, or refused, before."""
        with self._lock:
            if request not in self._waiting:
                return False
            self._waiting.remove(request)
            passing = self._pass()  # those who waited behind a large one
        _tell(passing, True)
        return True

    def give(self, num_bytes: int) -> None:
        """What passed was answered."""
        with self._lock:
            self._used_bytes -= num_bytes
            self._used_count -= 1
            passing = self._pass()
        _tell(passing, True)

    def close(self) -> None:
        """Refuse all that wait or will ask."""
        with self._lock:
            self._is_closed = True
            refused = list(self._waiting)
            self._waiting.clear()
        _tell(refused, False)

    def _pass(self) -> list[CreditRequest]:
        passing = []
        while self._waiting:
            num_bytes = self._waiting[0].num_bytes
            fits = self._used_bytes + num_bytes <= self._limit_bytes and self._used_count < self._limit_count
            if self._used_count and not fits:
                break
            self._used_bytes += num_bytes
            self._used_count += 1
            passing.append(self._waiting.popleft())
        return passing


def _tell(requests: list[CreditRequest], is_granted: bool) -> None:
    """Outside the lock: what is called may use the gate."""
    for request in requests:
        request.granted(is_granted)
