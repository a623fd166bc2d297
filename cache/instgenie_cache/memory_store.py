"""Records in this process's memory, least recently used templates evicted first."""

from __future__ import annotations

import threading
from collections import OrderedDict

from instgenie_cache.errors import StoreFullError
from instgenie_cache.keys import RecordKey
from instgenie_cache.record import Record
from instgenie_cache.store import StoreStats

_Records = dict[tuple[int, int], Record]


class MemoryStore:
    """A `RecordStore` in ordinary memory, whole templates at a time, within a byte budget."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._used_bytes = 0
        self._committed: OrderedDict[str, _Records] = OrderedDict()
        self._pending: dict[str, _Records] = {}
        self._hits = self._misses = self._evicted = 0
        self._lock = threading.Lock()

    def put(self, key: RecordKey, record: Record) -> None:
        """See `RecordStore`."""
        with self._lock:
            records = self._pending.setdefault(key.template, {})
            previous = records.pop((key.step, key.block), None)
            if previous is not None:
                self._used_bytes -= previous.num_bytes
            pending_bytes = sum(map(_size_bytes, self._pending.values()))
            if pending_bytes + record.num_bytes > self._budget_bytes:  # evicting every committed one would not do
                self._drop_pending(key.template)
                raise StoreFullError(
                    f"a record of {record.num_bytes} bytes does not fit: {pending_bytes} of {self._budget_bytes} bytes "
                    "are taken by templates still being written"
                )
            while self._used_bytes + record.num_bytes > self._budget_bytes:
                _, evicted = self._committed.popitem(last=False)
                self._used_bytes -= _size_bytes(evicted)
                self._evicted += 1
            records[key.step, key.block] = record
            self._used_bytes += record.num_bytes

    def commit(self, template: str) -> None:
        """See `RecordStore`."""
        with self._lock:
            records = self._pending.pop(template, None)
            if records is None:
                return
            previous = self._committed.pop(template, None)
            if previous is not None:
                self._used_bytes -= _size_bytes(previous)
            self._committed[template] = records

    def get(self, key: RecordKey) -> Record | None:
        """See `RecordStore`."""
        with self._lock:
            records = self._committed.get(key.template)
            record = None if records is None else records.get((key.step, key.block))
            if record is None:
                self._misses += 1
                return None
            self._committed.move_to_end(key.template)
            self._hits += 1
            return record

    def holds(self, template: str) -> bool:
        """See `RecordStore`."""
        with self._lock:
            return template in self._committed

    def delete(self, template: str) -> None:
        """See `RecordStore`."""
        with self._lock:
            self._used_bytes -= _size_bytes(self._committed.pop(template, {}))
            self._drop_pending(template)

    def stats(self) -> StoreStats:
        """See `RecordStore`."""
        with self._lock:
            return StoreStats(
                len(self._committed), self._used_bytes, self._budget_bytes, self._hits, self._misses, self._evicted
            )

    def _drop_pending(self, template: str) -> None:
        self._used_bytes -= _size_bytes(self._pending.pop(template, {}))


def _size_bytes(records: _Records) -> int:
    return sum(record.num_bytes for record in records.values())
