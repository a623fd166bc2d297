"""Templates in memory: visible once committed, within the budget, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from instgenie_cache import MemoryStore, Record, RecordKey, RecordStore, StoreFullError, StoreStats

TEMPLATES = st.sampled_from(["a", "b", "c"])
KEYS = st.builds(RecordKey, TEMPLATES, st.integers(0, 1), st.integers(0, 1))
BUDGET_BYTES = 60


def record_of(num_bytes: int, fill: int = 0) -> Record:
    """A record of that many payload bytes."""
    return Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill]) * num_bytes))


def size_bytes(templates: Iterable[dict[tuple[int, int], Record]]) -> int:
    """Payload bytes of all records."""
    return sum(record.num_bytes for records in templates for record in records.values())


def fill(store: RecordStore, template: str, num_bytes: int) -> None:
    """Commit a template of one record."""
    store.put(RecordKey(template, 0, 0), record_of(num_bytes))
    store.commit(template)


def test_template_is_visible_only_once_committed() -> None:
    store, key = MemoryStore(100), RecordKey("a", 0, 0)
    store.put(key, record_of(10))
    assert store.get(key) is None
    assert not store.holds("a")
    assert store.stats() == StoreStats(0, 10, 100, hits=0, misses=1, evicted_templates=0)
    store.commit("a")
    assert store.get(key) == record_of(10)
    assert store.holds("a")
    assert store.stats() == StoreStats(1, 10, 100, hits=1, misses=1, evicted_templates=0)


def test_other_steps_blocks_and_templates_are_misses() -> None:
    store = MemoryStore(100)
    store.put(RecordKey("a", 1, 2), record_of(10))
    store.commit("a")
    assert store.get(RecordKey("a", 2, 1)) is None
    assert store.get(RecordKey("a", 1, 1)) is None
    assert store.get(RecordKey("b", 1, 2)) is None
    assert store.stats().misses == 3


def test_committing_an_unknown_template_does_nothing() -> None:
    store = MemoryStore(100)
    store.commit("a")
    assert not store.holds("a")


def test_old_version_is_read_until_the_new_one_is_committed() -> None:
    store, key = MemoryStore(100), RecordKey("a", 0, 0)
    fill(store, "a", 10)
    store.put(key, record_of(20, fill=1))
    assert store.get(key) == record_of(10)
    store.commit("a")
    assert store.get(key) == record_of(20, fill=1)
    assert store.stats().used_bytes == 20


def test_record_put_twice_counts_once() -> None:
    store, key = MemoryStore(100), RecordKey("a", 0, 0)
    for size in (60, 50, 70):
        store.put(key, record_of(size))
    store.commit("a")
    assert store.stats().used_bytes == 70


def test_least_recently_used_template_is_evicted_first() -> None:
    store = MemoryStore(30)
    for template in "abc":
        fill(store, template, 10)
    store.get(RecordKey("a", 0, 0))
    store.put(RecordKey("d", 0, 0), record_of(15))
    assert [template for template in "abc" if store.holds(template)] == ["a"]
    assert store.stats().evicted_templates == 2
    store.commit("d")
    assert store.holds("d")


def test_asking_whether_a_template_is_there_is_no_use_of_it() -> None:
    store = MemoryStore(20)
    fill(store, "a", 10)
    fill(store, "b", 10)
    store.holds("a")
    fill(store, "c", 10)
    assert not store.holds("a")
    assert store.holds("b")


def test_full_store_drops_the_half_written_template_and_serves_on() -> None:
    store = MemoryStore(30)
    store.put(RecordKey("b", 0, 0), record_of(5))
    store.put(RecordKey("a", 0, 0), record_of(20))
    with pytest.raises(StoreFullError, match="a record of 10 bytes does not fit: 25 of 30 bytes"):
        store.put(RecordKey("a", 0, 1), record_of(10))
    assert store.stats().used_bytes == 5
    store.commit("a")
    assert not store.holds("a")
    store.commit("b")
    assert store.get(RecordKey("b", 0, 0)) == record_of(5)
    fill(store, "a", 20)
    assert store.holds("a")


def test_refused_put_evicts_nothing() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    store.put(RecordKey("b", 0, 0), record_of(15))
    for size in (16, 31):
        with pytest.raises(StoreFullError):
            store.put(RecordKey("c", 0, 0), record_of(size))
    assert store.holds("a")
    store.commit("b")
    assert store.stats() == StoreStats(2, 25, 30, hits=0, misses=0, evicted_templates=0)


def test_record_larger_than_the_budget_is_refused() -> None:
    store = MemoryStore(30)
    with pytest.raises(StoreFullError, match="31 bytes"):
        store.put(RecordKey("a", 0, 0), record_of(31))
    fill(store, "a", 30)
    assert store.holds("a")


def test_delete_drops_committed_and_half_written_records() -> None:
    store = MemoryStore(100)
    fill(store, "a", 10)
    store.put(RecordKey("a", 0, 0), record_of(20))
    store.put(RecordKey("b", 0, 0), record_of(30))
    store.delete("a")
    store.delete("unknown")
    assert not store.holds("a")
    assert store.stats().used_bytes == 30
    store.commit("a")
    assert not store.holds("a")
    assert store.stats().evicted_templates == 0


def test_many_threads_keep_the_books_straight() -> None:
    store = MemoryStore(400)

    def write(name: str) -> None:
        for number in range(50):
            template = f"{name}{number % 5}"
            for block in range(4):
                store.put(RecordKey(template, 0, block), record_of(5))
                store.get(RecordKey(f"{name}{(number + 1) % 5}", 0, block))
            store.commit(template)
            if number % 7 == 0:
                store.delete(template)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats()
    assert stats.hits + stats.misses == 4 * 50 * 4
    assert stats.used_bytes == 20 * stats.templates <= 400


class StoreMachine(RuleBasedStateMachine):
    """A store against the plainest model of it: two dictionaries and sums over them."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(BUDGET_BYTES)
        self.committed: OrderedDict[str, dict[tuple[int, int], Record]] = OrderedDict()
        self.pending: dict[str, dict[tuple[int, int], Record]] = {}
        self.hits = self.misses = self.evicted = 0

    def used_bytes(self) -> int:
        """What the model holds."""
        return size_bytes(self.committed.values()) + size_bytes(self.pending.values())

    @rule(key=KEYS, size=st.integers(0, BUDGET_BYTES + 5), fill=st.integers(0, 255))
    def put(self, key: RecordKey, size: int, fill: int) -> None:
        records = self.pending.setdefault(key.template, {})
        records.pop((key.step, key.block), None)
        if size_bytes(self.pending.values()) + size > BUDGET_BYTES:
            del self.pending[key.template]
            with pytest.raises(StoreFullError):
                self.store.put(key, record_of(size, fill))
            return
        while self.used_bytes() + size > BUDGET_BYTES:
            self.committed.popitem(last=False)
            self.evicted += 1
        records[key.step, key.block] = record_of(size, fill)
        self.store.put(key, record_of(size, fill))

    @rule(template=TEMPLATES)
    def commit(self, template: str) -> None:
        if template in self.pending:
            self.committed.pop(template, None)
            self.committed[template] = self.pending.pop(template)
        self.store.commit(template)

    @rule(key=KEYS)
    def get(self, key: RecordKey) -> None:
        expected = self.committed.get(key.template, {}).get((key.step, key.block))
        if expected is None:
            self.misses += 1
        else:
            self.hits += 1
            self.committed.move_to_end(key.template)
        assert self.store.get(key) == expected

    @rule(template=TEMPLATES)
    def delete(self, template: str) -> None:
        self.committed.pop(template, None)
        self.pending.pop(template, None)
        self.store.delete(template)

    @invariant()
    def same_books(self) -> None:
        assert [t for t in "abc" if self.store.holds(t)] == sorted(self.committed)
        expected = StoreStats(
            len(self.committed), self.used_bytes(), BUDGET_BYTES, self.hits, self.misses, self.evicted
        )
        assert self.store.stats() == expected
        assert expected.used_bytes <= BUDGET_BYTES


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
