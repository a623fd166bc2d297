"""A small cache of encodings, by what was encoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ContentCache(Generic[Value]):
    """Keeps the most recently used values within a byte budget. Not for use by several threads at once."""

    def __init__(self, budget_bytes: int, size_bytes: Callable[[Value], int]) -> None:
        self._budget_bytes, self._size_bytes = budget_bytes, size_bytes
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._used_bytes = 0
        self.hits = self.misses = 0

    def get_or_make(self, key: str, make: Callable[[], Value]) -> Value:
        """The value under `key`, made if it is not there. A value larger than the budget is made, not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            self.hits += 1
            return self._values[key]
        self.misses += 1
        value = make()
        size_bytes = self._size_bytes(value)
        if size_bytes > self._budget_bytes:
            return value
        self._values[key] = value
        self._used_bytes += size_bytes
        while self._used_bytes > self._budget_bytes:
            _, dropped = self._values.popitem(last=False)
            self._used_bytes -= self._size_bytes(dropped)
        return value
