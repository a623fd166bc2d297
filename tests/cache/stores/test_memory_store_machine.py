"""The memory store in any order of operations, against dictionaries."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from instgenie_cache import (
    CacheError,
    IncompleteTemplateError,
    MemoryStore,
    Record,
    StoreFullError,
    StoreStats,
    TemplateLease,
    TemplateSize,
    TemplateWriter,
)

TEMPLATES = st.sampled_from("abc")
BUDGET_BYTES = 60
Writing = tuple[TemplateWriter, str, TemplateSize, dict[int, Record]]


def record_of(num_bytes: int, fill: int = 0) -> Record:
    """A record of that many payload bytes."""
    return Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill]) * num_bytes))


def num_bytes(records: list[Record]) -> int:
    """Payload bytes of the records."""
    return sum(record.num_bytes for record in records)


class StoreMachine(RuleBasedStateMachine):
    """A store against the plainest model of it: dictionaries, and sums over them."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(BUDGET_BYTES)
        self.committed: OrderedDict[str, list[Record]] = OrderedDict()
        self.pinned: set[str] = set()
        self.writers: list[Writing] = []
        self.leases: list[tuple[TemplateLease, str, list[Record]]] = []
        self.done: list[TemplateWriter] = []  # kept, so that no id is used twice
        self.unwanted: set[int] = set()  # writers whose template was deleted meanwhile
        self.hits = self.misses = self.evicted = 0

    def held(self) -> set[str]:
        """Templates that may not be evicted: pinned, or under a lease in the version that is committed."""
        return self.pinned | {t for _, t, records in self.leases if self.committed.get(t) is records}

    def used_bytes(self) -> int:
        """What the model holds."""
        return sum(map(num_bytes, self.committed.values())) + sum(num_bytes([*w[3].values()]) for w in self.writers)

    @rule(template=TEMPLATES, blocks=st.integers(1, 2), record_bytes=st.sampled_from([0, 1, 5, 10, 20, 31, 61]))
    def create(self, template: str, blocks: int, record_bytes: int) -> None:
        announced = sum(writer[2].num_bytes for writer in self.writers)
        taken = announced + sum(num_bytes(self.committed[t]) for t in self.held())
        size = TemplateSize(1, blocks, record_bytes)
        if taken + size.num_bytes > BUDGET_BYTES:
            with pytest.raises(StoreFullError):
                self.store.create(template, size)
        else:
            self.writers.append((self.store.create(template, size), template, size, {}))

    @precondition(lambda self: self.writers)
    @rule(
        data=st.data(),
        block=st.sampled_from([0, 0, 0, 1, 1, 1, 2]),
        more=st.sampled_from([0] * 9 + [1]),
        value=st.integers(0, 255),
    )
    def put(self, data: st.DataObject, block: int, more: int, value: int) -> None:
        entry = data.draw(st.sampled_from(self.writers))
        self._put(entry, block, record_of(entry[2].record_bytes + more, value))

    def _put(self, entry: Writing, block: int, record: Record) -> None:
        writer, _, size, records = entry
        if block >= size.blocks or record.num_bytes != size.record_bytes:
            self.writers.remove(entry)
            with pytest.raises(CacheError):
                writer.put(0, block, record)
            return
        missing = self.used_bytes() + (0 if block in records else size.record_bytes) - BUDGET_BYTES
        victims = [t for t in self.committed if t not in self.held()]
        if missing > sum(num_bytes(self.committed[t]) for t in victims):
            self.writers.remove(entry)
            with pytest.raises(StoreFullError):
                writer.put(0, block, record)
            return
        while missing > 0:
            missing -= num_bytes(self.committed.pop(victims.pop(0)))
            self.evicted += 1
        records[block] = record
        writer.put(0, block, record)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), commit=st.booleans())
    def finish(self, data: st.DataObject, commit: bool) -> None:
        self._finish(data.draw(st.sampled_from(self.writers)), commit)

    @rule(template=TEMPLATES, num_bytes=st.sampled_from([0, 10, 20, 25, 40]), value=st.integers(0, 255))
    def fill(self, template: str, num_bytes: int, value: int) -> None:
        """A template from beginning to end: by chance alone few come to be committed."""
        writers = len(self.writers)
        self.create(template, 1, num_bytes)
        if len(self.writers) > writers:
            entry = self.writers[-1]
            self._put(entry, 0, record_of(num_bytes, value))
            if entry in self.writers:
                self._finish(entry, commit=True)

    def _finish(self, entry: Writing, commit: bool) -> None:
        self.writers.remove(entry)
        self.done.append(entry[0])
        writer, template, size, records = entry
        if not commit:
            writer.abort()
        elif len(records) < size.blocks:
            with pytest.raises(IncompleteTemplateError):
                writer.commit()
        else:
            writer.commit()
            if id(writer) not in self.unwanted:
                self.committed.setdefault(template, [records[block] for block in range(size.blocks)])

    @rule(template=TEMPLATES)
    def lease(self, template: str) -> None:
        lease = self.store.lease(template)
        if template not in self.committed:
            self.misses += 1
            assert lease is None
            return
        self.hits += 1
        self.committed.move_to_end(template)
        assert lease is not None
        self.leases.append((lease, template, self.committed[template]))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.leases))
        self.leases.remove(entry)
        entry[0].release()
        assert not entry[0].is_valid

    @rule(template=TEMPLATES)
    def pin(self, template: str) -> None:
        assert self.store.pin(template) == (template in self.committed)
        if template in self.committed:
            self.pinned.add(template)

    @rule(template=TEMPLATES)
    def unpin(self, template: str) -> None:
        self.store.unpin(template)
        self.pinned.discard(template)

    @rule(template=TEMPLATES)
    def delete(self, template: str) -> None:
        self.committed.pop(template, None)
        self.pinned.discard(template)
        self.unwanted |= {id(entry[0]) for entry in self.writers if entry[1] == template}
        self.store.delete(template)

    @invariant()
    def same_books(self) -> None:
        assert [t for t in "abc" if self.store.holds(t)] == sorted(self.committed)
        expected = StoreStats(
            len(self.committed), self.used_bytes(), BUDGET_BYTES, self.hits, self.misses, self.evicted
        )
        assert self.store.stats() == expected
        assert expected.used_bytes <= BUDGET_BYTES
        for lease, _, records in self.leases:
            assert lease.is_valid
            assert lease.step(0) == records


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=50)
