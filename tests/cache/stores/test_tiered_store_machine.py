"""A tiered store against dictionaries: whatever is read is what was committed last, whatever went on meanwhile."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from instgenie_cache import BeingWrittenError, CacheError, StoreFullError, TemplateLease, TemplateSize
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.stores.tiered_writer import TieredWriter
from tests.cache.small_stores import (
    RECORD_BYTES,
    FakeTier,
    fill_of,
    fill_template,
    read_template,
    record_of,
    tiered_store,
    values_of,
)
from tests.cache.tiered import wait_until

TEMPLATES = st.sampled_from(["x/a", "x/b", "y/a", "c"])
SIZES = st.builds(TemplateSize, st.integers(1, 3), st.integers(1, 2), st.sampled_from([100, RECORD_BYTES]))
ARENA_PAGES = 8
DISK_BYTES = 10 * (RECORD_BYTES + 256)


def note_of(first: int) -> bytes:
    """What the writer of a template leaves for its readers."""
    return str(first).encode()


@dataclass(eq=False)
class Writing:
    """A template that is being written, and how many of its steps were."""

    writer: TieredWriter
    template: str
    size: TemplateSize
    first: int
    steps: int = 0


class TieredMachine(RuleBasedStateMachine):
    """Templates are evicted when the store says so; nothing else may make one go, and nothing may change one."""

    has_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.disk = FakeTier(DISK_BYTES)
        self.store = self.opened()
        self.committed: dict[str, tuple[TemplateSize, int]] = {}
        self.writings: list[Writing] = []
        self.leases: list[tuple[TemplateLease, TemplateSize, int]] = []
        self.evicted = 0
        self.count = 0

    def opened(self) -> TieredStore:
        return tiered_store(*([self.disk] if self.has_disk else []), pages=ARENA_PAGES, policy="gdsf")

    def must_be_there(self, template: str) -> bool:
        """Whether the template cannot have been evicted."""
        return template in self.committed and self.store.stats().evicted_templates == self.evicted

    @rule(template=TEMPLATES, size=SIZES)
    def create(self, template: str, size: TemplateSize) -> None:
        self.count += 1
        try:
            writer = self.store.create(template, size)
        except StoreFullError:
            return
        except BeingWrittenError:
            assert any(one.template == template and one.writer.is_wanted for one in self.writings)
            return
        self.writings.append(Writing(writer, template, size, self.count * 7))

    @precondition(lambda self: self.writings)
    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        """A step, or nothing where all are there. What is written of a template may outlive it: it is in the way of
        nobody."""
        one = data.draw(st.sampled_from(self.writings))
        if one.steps == one.size.steps:
            return
        self.flush()
        try:
            for block in range(one.size.blocks):
                if one.writer.is_wanted and one.writer.slot(one.steps, block) is None:
                    one.writer.abort()  # what else is in use leaves no room
                    self.writings.remove(one)
                    return
                fill = one.first + one.steps * one.size.blocks + block
                one.writer.put(one.steps, block, record_of(fill, one.size.record_bytes))
            one.steps += 1
        except CacheError:
            assert self.has_disk  # which may have been too full of what is in use
            self.writings.remove(one)
        self.flush()

    @precondition(lambda self: self.writings)
    @rule(data=st.data(), commits=st.booleans())
    def end(self, data: st.DataObject, commits: bool) -> None:
        one = data.draw(st.sampled_from(self.writings))
        self.writings.remove(one)
        if not (commits and one.steps):
            one.writer.abort()
            return
        is_wanted = one.writer.is_wanted
        try:
            one.writer.commit(cost_ms=float(one.first), steps=one.steps, note=note_of(one.first))
        except CacheError:
            assert self.has_disk
            return
        if is_wanted:
            self.committed[one.template] = replace(one.size, steps=one.steps), one.first
        self.flush()

    @rule(template=TEMPLATES)
    def lease(self, template: str) -> None:
        must = self.must_be_there(template)
        lease = self.store.lease(template)
        if lease is None:
            assert not must
            self.committed.pop(template, None)
        else:
            self.leases.append((lease, *self.committed[template]))
            assert lease.note == note_of(self.committed[template][1])

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), releases=st.booleans())
    def read(self, data: st.DataObject, releases: bool) -> None:
        entry = data.draw(st.sampled_from(self.leases))
        lease, size, first = entry
        step = data.draw(st.integers(0, size.steps - 1))
        ends = data.draw(st.none() | st.tuples(*2 * [st.integers(0, size.blocks)]))
        begin, stop = sorted(ends or (0, size.blocks))
        records = lease.step(step) if ends is None else lease.blocks(step, begin, stop)
        if records is not None:
            assert [fill_of(record) for record in records] == values_of(size, first)[step][begin:stop]
        else:
            assert (size, first) not in self.committed.values()  # else it is under lease, and whole
        if releases:
            lease.release()
            self.leases.remove(entry)
        self.flush()

    @rule(template=TEMPLATES)
    def delete(self, template: str) -> None:
        self.store.delete(template)
        self.committed.pop(template, None)
        assert self.store.lease(template) is None

    @rule(template=TEMPLATES)
    def prefetch(self, template: str) -> None:
        self.store.prefetch(template)
        self.flush()

    @rule(template=TEMPLATES, pinned=st.booleans())
    def pin(self, template: str, pinned: bool) -> None:
        if pinned:
            self.store.pin(template)
        else:
            self.store.unpin(template)

    @rule()
    def flush(self) -> None:
        """Have the other threads come to an end, so that what is evicted does not depend on when they run."""
        loader = self.store._loader
        wait_until(lambda: not (loader._prefetching or loader._loading))
        with suppress(StoreFullError):  # a template that the disk did not take may stay in memory
            self.store.flush()

    @precondition(lambda self: self.has_disk)
    @rule()
    def restart(self) -> None:
        for lease, _, _ in self.leases:
            lease.release()
        for one in self.writings:
            one.writer.abort()
        self.leases, self.writings = [], []
        self.store.close()
        self.disk = FakeTier(DISK_BYTES, content=self.disk)
        self.store = self.opened()
        self.committed = {name: self.committed[name] for name in self.disk.committed}  # nothing that was never written
        self.evicted = 0

    @invariant()
    def nothing_unknown_is_held(self) -> None:
        names = {name for name, _ in self.store.templates(None)}
        assert names <= self.committed.keys()
        if self.store.stats().evicted_templates == self.evicted:
            assert names == self.committed.keys()

    def teardown(self) -> None:
        for lease, _, _ in self.leases:
            lease.release()
        for one in self.writings:
            one.writer.abort()
        for name in self.committed:
            self.store.unpin(name)
        self.flush()
        host = self.store.host
        # No page is lost; what is being read ahead comes to its end.
        wait_until(lambda: host.free_bytes + host.evictable_bytes == host.total_bytes)
        if self.has_disk:
            assert {key.template for key in self.disk.records} == self.disk.committed.keys()
        self.store.close()


class DiskMachine(TieredMachine):
    """With a tier below."""

    has_disk = True


TestMemory = TieredMachine.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDisk = DiskMachine.TestCase
TestDisk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("has_disk", [False, True])
def test_many_threads_read_what_was_committed(has_disk: bool) -> None:
    size = TemplateSize(3, 1, RECORD_BYTES)
    cold = [FakeTier(6 * 3 * (RECORD_BYTES + 256))] if has_disk else []
    store = tiered_store(*cold, pages=24)

    def work(number: int) -> list[object]:
        chance = random.Random(number)
        wrong: list[object] = []
        for _ in range(150):
            name = f"t{chance.randrange(10)}"
            first = int(name[1:]) * 20
            if chance.random() < 0.3:
                with suppress(StoreFullError, BeingWrittenError):
                    fill_template(store, name, size, first)
            elif chance.random() < 0.1:
                store.delete(name)
            else:
                try:
                    steps = read_template(store, name, size) or values_of(size, first)
                except CacheError as error:
                    if "no memory for a step" not in str(error):  # where others read, or write, all of it
                        raise
                    continue
                wrong += [s for s, right in zip(steps, values_of(size, first), strict=True) if s not in (None, right)]
        return wrong

    with ThreadPoolExecutor(6) as pool:
        wrong = [step for found in pool.map(work, range(6)) for step in found]
    with suppress(StoreFullError):  # one that the disk did not take
        store.flush()
    assert wrong == []
    wait_until(lambda: store.host.free_bytes + store.host.evictable_bytes == store.host.total_bytes)
    store.close()
