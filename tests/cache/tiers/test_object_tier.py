"""The object tier: broken objects are found, errors are the cache's, and other machines' work is left alone."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from obstore.store import LocalStore, MemoryStore

from instgenie_cache import CacheError, ChecksumError, RecordFormatError, StoreFullError
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.object_tier import ObjectTier
from tests.cache.templates import SIZE, WRITING, reads_back, step_slab, write_template


def test_several_machines_share_templates(tmp_path: Path) -> None:
    here, there = ObjectTier.open(tmp_path.as_uri()), ObjectTier.open(tmp_path.as_uri())
    manifest = write_template(here, "a")
    assert there.manifest("a") == manifest
    assert reads_back(there, "a")


def test_what_lies_between_records_is_not_stored() -> None:
    store = MemoryStore()
    size = TemplateSize(1, 2, 10)
    write_template(ObjectTier(store), "a", size)
    data = bytes(store.get(f"a/={WRITING}=0").bytes())
    assert len(data) == size.step_bytes
    for block in range(size.blocks):
        gap = data[size.offset(block) + size.stored_record_bytes : size.offset(block) + size.stride_bytes]
        assert gap == bytes(size.stride_bytes - size.stored_record_bytes)


def test_a_step_beyond_one_part_reads_back() -> None:
    tier = ObjectTier(MemoryStore())
    size = TemplateSize(steps=1, blocks=3, record_bytes=4_000_000)
    write_template(tier, "a", size)
    assert reads_back(tier, "a", size)


@pytest.mark.parametrize("position", [20, 300, SIZE.step_bytes - 200])
def test_a_flipped_bit_in_a_step_is_found(position: int) -> None:
    store = MemoryStore()
    tier = ObjectTier(store)
    write_template(tier, "a")
    data = bytearray(bytes(store.get(f"a/={WRITING}=1").bytes()))
    data[position] ^= 1
    store.put(f"a/={WRITING}=1", bytes(data))
    with pytest.raises(ChecksumError):
        tier.read_step("a", SIZE, 1, Slab.private(SIZE.step_bytes), writing=WRITING)
    store.put(f"a/={WRITING}=1", bytes(data[:-1]))
    with pytest.raises(RecordFormatError, match="expected"):
        tier.read_step("a", SIZE, 1, Slab.private(SIZE.step_bytes), writing=WRITING)


def test_blocks_of_a_step_are_the_only_bytes_that_are_asked_for() -> None:
    class RangedStore(MemoryStore):
        ranges: list[object]

        def get(self, *arguments: Any, **options: Any) -> Any:
            found = super().get(*arguments, **options)
            self.ranges.append(found.range)
            return found

    store = RangedStore()
    store.ranges = []
    tier = ObjectTier(store)
    write_template(tier, "a")
    assert tier.read_step("a", SIZE, 1, Slab.private(SIZE.stride_bytes), range(1, 2), writing=WRITING)
    assert store.ranges == [(SIZE.offset(1), SIZE.offset(2))]


def test_broken_blocks_of_a_step_are_found() -> None:
    store = MemoryStore()
    tier = ObjectTier(store)
    write_template(tier, "a")
    whole = bytes(store.get(f"a/={WRITING}=1").bytes())
    slab = Slab.private(SIZE.stride_bytes)
    flipped = bytearray(whole)
    flipped[SIZE.offset(1) + 300] ^= 1
    store.put(f"a/={WRITING}=1", bytes(flipped))
    assert tier.read_step("a", SIZE, 1, slab, range(1), writing=WRITING)
    with pytest.raises(ChecksumError):
        tier.read_step("a", SIZE, 1, slab, range(1, 2), writing=WRITING)
    for wrong in (whole[:-1], whole[: SIZE.offset(1)], whole + b"x"):
        store.put(f"a/={WRITING}=1", wrong)
        with pytest.raises(RecordFormatError, match=f"{len(wrong)} bytes, expected {SIZE.step_bytes}"):
            tier.read_step("a", SIZE, 1, slab, range(1, 2), writing=WRITING)


def test_store_that_fails_is_no_broken_step() -> None:
    class FailingStore(MemoryStore):
        def get(self, *_: object, **options: object) -> NoReturn:
            raise OSError("Connection reset by peer")

    store = FailingStore()
    tier = ObjectTier(store)
    write_template(tier, "a")
    with pytest.raises(CacheError, match="Connection reset") as caught:
        tier.read_step("a", SIZE, 1, Slab.private(SIZE.stride_bytes), range(1, 2), writing=WRITING)
    assert not isinstance(caught.value, RecordFormatError)


def test_a_broken_manifest_is_told_of_and_left_out_of_the_list() -> None:
    store = MemoryStore()
    tier = ObjectTier(store)
    kept = write_template(tier, "a")
    write_template(tier, "b")
    store.put("b/=manifest", b"IGM3" + bytes(30))
    store.put("c/=manifest", bytes(store.get("a/=manifest").bytes()))
    with pytest.raises(ChecksumError):
        tier.manifest("b")
    with pytest.raises(RecordFormatError, match="filed under c"):
        tier.manifest("c")
    assert list(tier.manifests()) == [kept]


class SpyStore(MemoryStore):
    """Says what was visible when a step was written."""

    visible: list[bool]

    def put(self, path: str, *arguments: Any, **options: Any) -> Any:
        if not path.endswith("manifest"):
            self.visible.append(ObjectTier(self).manifest(path.partition("/")[0]) is not None)
        return super().put(path, *arguments, **options)


def test_a_template_is_there_until_its_next_writing_is() -> None:
    store = SpyStore()
    store.visible = []
    smaller = TemplateSize(1, 2, 100)
    write_template(ObjectTier(store), "a")
    manifest = write_template(ObjectTier(store), "a", smaller, created=3.0)
    assert store.visible == [False] * SIZE.steps + [True]
    assert ObjectTier(store).manifest("a") == manifest
    assert reads_back(ObjectTier(store), "a", smaller, manifest.writing)
    assert ObjectTier(store, abandoned=timedelta(0)).sweep() == SIZE.steps
    assert reads_back(ObjectTier(store), "a", smaller, manifest.writing)


@pytest.mark.parametrize(
    "size",
    [
        TemplateSize(1_000_001, 1, 1),
        TemplateSize(1, 1_000_001, 1),
        TemplateSize(1, 1, (1 << 32) + 1),
        TemplateSize(1, 1_000_000, 1 << 32),
        TemplateSize(0, 1, 1),
        TemplateSize(1, 0, 1),
    ],
)
def test_manifests_of_absurd_sizes_are_refused(size: TemplateSize) -> None:
    tier = ObjectTier(MemoryStore())
    tier.commit(Manifest("a", size, 0.0, 0.0))
    with pytest.raises(RecordFormatError, match="absurd"):
        tier.manifest("a")
    assert list(tier.manifests()) == []


def test_objects_that_are_too_long_are_not_read() -> None:
    class UnreadableStore(MemoryStore):
        def get(self, *arguments: Any, **options: Any) -> Any:
            found = super().get(*arguments, **options)
            return SimpleNamespace(meta=found.meta)  # without bytes()

    store = UnreadableStore()
    store.put("a/=manifest", bytes(6000))
    store.put(f"a/={WRITING}=0", bytes(SIZE.step_bytes + 1))
    tier = ObjectTier(store)
    with pytest.raises(RecordFormatError, match="6000 bytes, expected"):
        tier.manifest("a")
    with pytest.raises(RecordFormatError, match="expected"):
        tier.read_step("a", SIZE, 0, Slab.private(SIZE.step_bytes), writing=WRITING)


def test_sweeping_drops_only_what_is_old_and_not_committed() -> None:
    store = MemoryStore()
    tier = ObjectTier(store)
    write_template(tier, "a")
    tier.write_steps("b", SIZE, [(0, step_slab("b", SIZE, 0))])
    store.put("notes.txt", b"of someone else")
    assert tier.sweep() == 0
    assert ObjectTier(store, abandoned=timedelta(0)).sweep() == 1
    assert reads_back(tier, "a")
    assert not tier.read_step("b", SIZE, 0, Slab.private(SIZE.step_bytes))
    assert bytes(store.get("notes.txt").bytes()) == b"of someone else"


def test_writings_of_two_machines_do_not_meet() -> None:
    store = MemoryStore()
    here, there = ObjectTier(store), ObjectTier(store, abandoned=timedelta(0))
    first, second = (Manifest("a", SIZE, 1.0, created) for created in (1000.0, 1000.0000001))
    slabs = [step_slab("a", SIZE, step) for step in range(SIZE.steps)]
    for step in range(SIZE.steps):
        here.write_steps("a", SIZE, [(step, slabs[step])], first.writing)
        there.write_steps("a", SIZE, [(step, slabs[0])], second.writing)
    here.commit(first)
    slab = Slab.private(SIZE.step_bytes)
    assert here.read_step("a", SIZE, 1, slab, writing=first.writing)
    with pytest.raises(RecordFormatError):  # what the other one wrote as its step
        here.read_step("a", SIZE, 1, slab, writing=second.writing)
    assert there.sweep() == SIZE.steps
    assert all(here.read_step("a", SIZE, step, slab, writing=first.writing) for step in range(SIZE.steps))
    there.delete("a")
    assert not here.read_step("a", SIZE, 1, slab, writing=first.writing)


def test_a_sweep_ends_when_it_should() -> None:
    store = MemoryStore()
    tier = ObjectTier(store, abandoned=timedelta(0))
    for name in "ab":
        tier.write_steps(name, SIZE, [(0, step_slab(name, SIZE, 0))])
    assert tier.sweep(lambda: True) == 0
    assert tier.sweep() == 2


@pytest.mark.parametrize("url", ["nothing", "unknown://bucket"])
def test_an_address_of_no_store_is_an_error_of_the_cache(url: str) -> None:
    with pytest.raises(CacheError, match=url):
        ObjectTier.open(url)


def test_a_store_that_cannot_be_written_is_an_error_of_the_cache(tmp_path: Path) -> None:
    tier = ObjectTier(LocalStore(tmp_path))
    (tmp_path / "a").write_bytes(b"a file where a folder is needed")
    with pytest.raises(CacheError, match="a/==0"):
        tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])


def test_a_full_disk_behind_the_store_is_a_full_store() -> None:
    class FullStore(MemoryStore):
        def put(self, *arguments: object, **options: object) -> NoReturn:
            raise OSError("Unable to write: No space left on device (os error 28)\n\nDebug source: ...")

    with pytest.raises(StoreFullError, match=r"a/==0: no room .*\(os error 28\)$"):
        ObjectTier(FullStore()).write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])


@pytest.mark.parametrize("name", ["..", "a/..", "a/b/c", "a=b"])
def test_names_that_would_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(CacheError, match="name"):
        ObjectTier(MemoryStore()).manifest(name)


def test_without_obstore_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(CacheError, match=r"pip install -e '\.\[object\]'"):
        ObjectTier.open("memory:///")
