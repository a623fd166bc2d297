"""Templates in memory: visible once committed and whole, within the budget, least recently used out first."""

from __future__ import annotations

import threading
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
    RecordStore,
    StoreFullError,
    StoreStats,
    TemplateLease,
    TemplateSize,
    TemplateWriter,
)

TEMPLATES = st.sampled_from(["a", "b", "c"])
BUDGET_BYTES = 60


def record_of(num_bytes: int, fill: int = 0) -> Record:
    """A record of that many payload bytes."""
    return Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill]) * num_bytes))


def fill(store: RecordStore, template: str, num_bytes: int, value: int = 0) -> None:
    """Commit a template of one record."""
    with store.create(template, TemplateSize(1, 1, num_bytes)) as writer:
        writer.put(0, 0, record_of(num_bytes, value))
        writer.commit()


def read(store: RecordStore, template: str, step: int = 0) -> list[Record] | None:
    """A step of a template, or None where the template is not there."""
    lease = store.lease(template)
    if lease is None:
        return None
    with lease:
        records = lease.step(step)
        return None if records is None else list(records)


def test_template_is_visible_only_once_committed() -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(1, 1, 10))
    writer.put(0, 0, record_of(10))
    assert store.lease("a") is None
    assert not store.holds("a")
    assert store.num_bytes("a") is None
    assert store.stats() == StoreStats(0, 10, 100, hits=0, misses=1, evicted_templates=0)
    writer.commit()
    assert read(store, "a") == [record_of(10)]
    assert store.holds("a")
    assert store.num_bytes("a") == 10
    assert store.stats() == StoreStats(1, 10, 100, hits=1, misses=1, evicted_templates=0)


def test_step_gives_its_records_in_block_order() -> None:
    store = MemoryStore(100)
    with store.create("a", TemplateSize(2, 3, 60)) as writer:
        for step, block in ((1, 2), (0, 1), (1, 0), (0, 0), (0, 2), (1, 1)):
            writer.put(step, block, record_of(10, 10 * step + block))
        writer.commit()
    assert read(store, "a", 1) == [record_of(10, 10 + block) for block in range(3)]
    assert read(store, "a", 0) == [record_of(10, block) for block in range(3)]
    assert read(store, "a", 2) is None


def test_template_that_lacks_a_record_is_refused() -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(2, 2, 40))
    for step, block in ((0, 0), (0, 1), (1, 0)):
        writer.put(step, block, record_of(10))
    with pytest.raises(IncompleteTemplateError, match="3 of 4 records"):
        writer.commit()
    assert not store.holds("a")
    assert store.stats().used_bytes == 0


@pytest.mark.parametrize(("step", "block"), [(2, 0), (0, 3), (-1, 0)])
def test_record_outside_the_template(step: int, block: int) -> None:
    writer = MemoryStore(100).create("a", TemplateSize(2, 3, 60))
    with pytest.raises(CacheError, match=f"step {step}, block {block} of a template of 2 x 3 records"):
        writer.put(step, block, record_of(1))


def test_writers_of_one_template_do_not_mix_and_the_first_commit_counts() -> None:
    store = MemoryStore(100)
    first, second = (store.create("a", TemplateSize(1, 2, 20)) for _ in "ab")
    for block in range(2):
        first.put(0, block, record_of(10, 1))
        second.put(0, block, record_of(10, 2))
    second.commit()
    first.commit()
    assert read(store, "a") == [record_of(10, 2)] * 2
    assert store.stats().used_bytes == 20


def test_writer_that_fails_leaves_the_other_one_alone() -> None:
    store = MemoryStore(100)
    first, second = (store.create("a", TemplateSize(1, 1, 10)) for _ in "ab")
    first.put(0, 0, record_of(10, 1))
    second.abort()
    first.commit()
    assert read(store, "a") == [record_of(10, 1)]


def test_writer_is_done_after_commit_or_abort() -> None:
    store = MemoryStore(100)
    for end in ("commit", "abort"):
        writer = store.create(end, TemplateSize(1, 1, 10))
        writer.put(0, 0, record_of(10))
        getattr(writer, end)()
        writer.abort()
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.put(0, 0, record_of(10))
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.commit()
    assert (store.holds("commit"), store.holds("abort"), store.stats().used_bytes) == (True, False, 10)


def test_error_inside_a_writers_block_aborts_it() -> None:
    store = MemoryStore(100)
    try:
        with store.create("a", TemplateSize(1, 2, 20)) as writer:
            writer.put(0, 0, record_of(10))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert store.stats().used_bytes == 0
    fill(store, "b", 100)  # what was announced is free again
    assert store.holds("b")


def test_record_put_twice_counts_once() -> None:
    store = MemoryStore(100)
    with store.create("a", TemplateSize(1, 1, 70)) as writer:
        for size in (60, 50, 70):
            writer.put(0, 0, record_of(size))
        writer.commit()
    assert store.stats().used_bytes == 70


def test_least_recently_used_template_is_evicted_first() -> None:
    store = MemoryStore(30)
    for template in "abc":
        fill(store, template, 10)
    read(store, "a")
    fill(store, "d", 15)
    assert [template for template in "abcd" if store.holds(template)] == ["a", "d"]
    assert store.stats().evicted_templates == 2


def test_asking_whether_a_template_is_there_is_no_use_of_it() -> None:
    store = MemoryStore(20)
    fill(store, "a", 10)
    fill(store, "b", 10)
    store.holds("a")
    store.num_bytes("a")
    fill(store, "c", 10)
    assert not store.holds("a")
    assert store.holds("b")


def test_announced_template_that_cannot_fit_is_refused_before_anything_is_evicted() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    with pytest.raises(StoreFullError, match="a template of 31 bytes does not fit: 0 of 30 bytes"):
        store.create("b", TemplateSize(1, 1, 31))
    other = store.create("c", TemplateSize(1, 1, 15))
    with pytest.raises(StoreFullError, match="a template of 16 bytes does not fit: 15 of 30 bytes"):
        store.create("b", TemplateSize(1, 1, 16))
    assert store.holds("a")
    other.put(0, 0, record_of(15))
    other.commit()
    assert store.stats() == StoreStats(2, 25, 30, hits=0, misses=0, evicted_templates=0)


def test_writer_gets_the_room_it_announced() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20)
    writer = store.create("b", TemplateSize(1, 3, 30))
    for block in range(3):
        writer.put(0, block, record_of(10))
        assert store.holds("a") == (block == 0)  # nothing is evicted before the room is needed
    writer.commit()
    assert store.stats().used_bytes == 30


def test_more_than_announced_is_refused_and_drops_the_half_written_template() -> None:
    store = MemoryStore(100)
    writer = store.create("a", TemplateSize(1, 2, 20))
    writer.put(0, 0, record_of(15))
    with pytest.raises(StoreFullError, match="25 bytes are more than the 20 announced"):
        writer.put(0, 1, record_of(10))
    assert store.stats().used_bytes == 0


def test_template_under_lease_is_not_evicted() -> None:
    store = MemoryStore(30)
    fill(store, "a", 10)
    fill(store, "b", 10)
    lease = store.lease("a")
    assert lease is not None
    fill(store, "c", 15)
    assert [template for template in "abc" if store.holds(template)] == ["a", "c"]
    with pytest.raises(StoreFullError, match="a template of 25 bytes does not fit: 10 of 30 bytes"):
        store.create("d", TemplateSize(1, 1, 25))
    lease.release()
    fill(store, "d", 25)
    assert [template for template in "abcd" if store.holds(template)] == ["d"]


def test_lease_that_came_after_the_announcement_refuses_the_record() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20)
    writer = store.create("b", TemplateSize(1, 1, 30))
    with store.lease("a") as lease:  # type: ignore[union-attr]
        with pytest.raises(StoreFullError, match="the rest is being read"):
            writer.put(0, 0, record_of(30))
        assert lease.step(0) == [record_of(20)]
    assert store.stats().used_bytes == 20
    fill(store, "b", 30)


def test_lease_reads_on_after_a_delete_and_its_bytes_are_free() -> None:
    store = MemoryStore(30)
    fill(store, "a", 20, value=7)
    lease = store.lease("a")
    assert lease is not None
    store.delete("a")
    store.delete("unknown")
    assert not store.holds("a")
    assert store.stats().used_bytes == 0
    fill(store, "a", 30)
    assert lease.step(0) == [record_of(20, 7)]
    lease.release()
    lease.release()
    assert read(store, "a") == [record_of(30)]
    with pytest.raises(CacheError, match="released before"):
        lease.step(0)


def test_deleted_template_does_not_come_back_with_a_commit_of_before() -> None:
    store = MemoryStore(30)
    writer = store.create("a", TemplateSize(1, 1, 10))
    writer.put(0, 0, record_of(10))
    store.delete("a")
    writer.commit()
    assert not store.holds("a")
    assert store.stats().used_bytes == 0
    fill(store, "a", 30)
    assert store.holds("a")


def test_many_threads_keep_the_books_straight() -> None:
    store = MemoryStore(400)
    mixed: list[str] = []

    def work(number: int) -> None:
        for round_ in range(60):
            template = f"{(number + round_) % 7}"
            with store.create(template, TemplateSize(1, 4, 20)) as writer:
                for block in range(4):
                    writer.put(0, block, record_of(5, number))
                writer.commit()
            records = read(store, template)
            if records is not None and len({record.payload[0] for record in records}) != 1:
                mixed.append(template)
            if round_ % 7 == 0:
                store.delete(template)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats()
    assert not mixed
    assert stats.hits + stats.misses == 4 * 60
    assert stats.used_bytes == 20 * stats.templates <= 400


class StoreMachine(RuleBasedStateMachine):
    """A store against the plainest model of it: dictionaries, and sums over them."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(BUDGET_BYTES)
        self.committed: OrderedDict[str, list[Record]] = OrderedDict()
        self.writers: list[tuple[TemplateWriter, str, TemplateSize, dict[int, Record]]] = []
        self.leases: list[tuple[TemplateLease, str, list[Record]]] = []
        self.done: list[TemplateWriter] = []  # kept, so that no id is used twice
        self.unwanted: set[int] = set()  # writers whose template was deleted meanwhile
        self.hits = self.misses = self.evicted = 0

    def leased(self) -> set[str]:
        """Templates that may not be evicted: under a lease, in the version that is committed."""
        return {t for _, t, records in self.leases if self.committed.get(t) is records}

    def used_bytes(self) -> int:
        """What the model holds."""
        return sum(map(num_bytes, self.committed.values())) + sum(num_bytes([*w[3].values()]) for w in self.writers)

    @rule(template=TEMPLATES, blocks=st.integers(1, 2), size=st.integers(0, BUDGET_BYTES + 5))
    def create(self, template: str, blocks: int, size: int) -> None:
        announced = sum(writer[2].num_bytes for writer in self.writers)
        taken = announced + sum(num_bytes(self.committed[t]) for t in self.leased())
        form = TemplateSize(1, blocks, size)
        if taken + size > BUDGET_BYTES:
            with pytest.raises(StoreFullError):
                self.store.create(template, form)
        else:
            self.writers.append((self.store.create(template, form), template, form, {}))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), block=st.integers(0, 1), size=st.integers(0, 40), value=st.integers(0, 255))
    def put(self, data: st.DataObject, block: int, size: int, value: int) -> None:
        entry = data.draw(st.sampled_from(self.writers))
        writer, _, form, records = entry
        if block >= form.blocks:
            return
        others = num_bytes([r for b, r in records.items() if b != block])
        more = size - (records[block].num_bytes if block in records else 0)
        victims = [t for t in self.committed if t not in self.leased()]
        evictable = sum(num_bytes(self.committed[t]) for t in victims)
        if others + size > form.num_bytes or self.used_bytes() + more - evictable > BUDGET_BYTES:
            self.writers.remove(entry)
            with pytest.raises(StoreFullError):
                writer.put(0, block, record_of(size, value))
            return
        while self.used_bytes() + more > BUDGET_BYTES:
            del self.committed[victims.pop(0)]
            self.evicted += 1
        records[block] = record_of(size, value)
        writer.put(0, block, record_of(size, value))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), commit=st.booleans())
    def finish(self, data: st.DataObject, commit: bool) -> None:
        entry = data.draw(st.sampled_from(self.writers))
        self.writers.remove(entry)
        self.done.append(entry[0])
        writer, template, form, records = entry
        if not commit:
            writer.abort()
        elif len(records) < form.blocks:
            with pytest.raises(IncompleteTemplateError):
                writer.commit()
        else:
            writer.commit()
            if id(writer) not in self.unwanted:
                self.committed.setdefault(template, [records[block] for block in range(form.blocks)])

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

    @rule(template=TEMPLATES)
    def delete(self, template: str) -> None:
        self.committed.pop(template, None)
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
            assert lease.step(0) == records


def num_bytes(records: list[Record]) -> int:
    """Payload bytes of the records."""
    return sum(record.num_bytes for record in records)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
