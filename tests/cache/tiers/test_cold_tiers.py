"""What the tiers below memory have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache import CacheError
from instgenie_cache.records.manifest import MAX_NOTE_BYTES, Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.object_tier import ObjectTier
from instgenie_cache.tiers.tier import ColdTier
from tests.cache.templates import SIZE, WRITING, reads_back, step_slab, write_template

KINDS = ["disk", "object"]


def open_tier(kind: str, folder: Path) -> ColdTier:
    return DiskTier.open(folder, budget_bytes=64 << 20) if kind == "disk" else ObjectTier.open(folder.as_uri())


@pytest.fixture(params=KINDS)
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ColdTier]:
    tier = open_tier(request.param, tmp_path / "tier")
    yield tier
    tier.close()


def test_a_template_reads_back_as_it_was_written(tier: ColdTier) -> None:
    manifest = write_template(tier, "tenant/a")
    assert reads_back(tier, "tenant/a")
    assert tier.manifest("tenant/a") == manifest
    assert list(tier.manifests()) == [manifest]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_outlives_the_tier(kind: str, tmp_path: Path) -> None:
    tier = open_tier(kind, tmp_path)
    manifest = write_template(tier, "a")
    tier.close()
    tier = open_tier(kind, tmp_path)
    assert list(tier.manifests()) == [manifest]
    assert reads_back(tier, "a")
    tier.close()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 3),
    blocks=st.integers(1, 4),
    record_bytes=st.sampled_from([0, 1, 255, 256, 1700, 1760, 1800, 3839, 3840, 3841, 70_000]) | st.integers(0, 9000),
)
def test_every_size_reads_back(kind: str, steps: int, blocks: int, record_bytes: int) -> None:
    size = TemplateSize(steps, blocks, record_bytes)
    with TemporaryDirectory() as folder:
        tier = open_tier(kind, Path(folder))
        write_template(tier, "a", size)
        assert reads_back(tier, "a", size)
        tier.close()


def test_steps_come_from_and_go_to_slabs_in_pieces(tier: ColdTier) -> None:
    def in_pieces(data: bytes) -> Slab:
        memory = np.frombuffer(bytearray(data), np.uint8)
        return Slab([memory[:100], memory[100:5300], memory[5300:]])

    for step in range(SIZE.steps):
        tier.write_steps("a", SIZE, [(step, in_pieces(bytes(step_slab("a", SIZE, step).read(0, SIZE.step_bytes))))])
    tier.commit(Manifest("a", SIZE, cost_ms=0.0, created=0.0))
    assert reads_back(tier, "a", writing="")
    slab = in_pieces(bytes(SIZE.step_bytes))
    assert tier.read_step("a", SIZE, 1, slab)
    where = SIZE.offset(1), SIZE.stored_record_bytes
    assert bytes(slab.read(*where)) == bytes(step_slab("a", SIZE, 1).read(*where))


def test_a_template_may_be_committed_with_fewer_steps_than_were_announced(tier: ColdTier) -> None:
    size, note = TemplateSize(1, SIZE.blocks, SIZE.record_bytes), bytes(range(256)) * (MAX_NOTE_BYTES // 256)
    tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    manifest = Manifest("a", size, cost_ms=0.0, created=0.0, note=note)
    tier.commit(manifest)
    assert tier.manifest("a") == manifest
    assert list(tier.manifests()) == [manifest]
    assert reads_back(tier, "a", size, "")
    assert not reads_back(tier, "a", SIZE, "")
    tier.delete("a")
    assert tier.used_bytes == 0


def test_some_blocks_of_a_step_are_read_alone(tier: ColdTier) -> None:
    size = TemplateSize(steps=2, blocks=4, record_bytes=5000)
    write_template(tier, "a", size)
    expected = step_slab("a", size, 1)
    for first in range(size.blocks):
        for stop in range(first + 1, size.blocks + 1):
            slab = Slab.private(size.offset(stop - first))
            assert tier.read_step("a", size, 1, slab, range(first, stop), WRITING)
            for block in range(first, stop):
                found = slab.read(size.offset(block - first), size.stored_record_bytes)
                assert found == expected.read(size.offset(block), size.stored_record_bytes)


def test_what_has_no_manifest_is_not_there(tier: ColdTier) -> None:
    tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    assert tier.manifest("a") is None
    assert list(tier.manifests()) == []


def test_sweeping_leaves_what_is_being_written_and_what_is_committed(tier: ColdTier) -> None:
    write_template(tier, "a")
    tier.write_steps("b", SIZE, [(0, step_slab("b", SIZE, 0))])
    assert tier.sweep() == 0
    assert reads_back(tier, "a")


def test_an_unknown_step_is_no_error(tier: ColdTier) -> None:
    write_template(tier, "a")
    for blocks in (None, range(1, 2)):
        assert not tier.read_step("a", SIZE, SIZE.steps, Slab.private(SIZE.step_bytes), blocks, WRITING)
        assert not tier.read_step("b", SIZE, 0, Slab.private(SIZE.step_bytes), blocks, WRITING)
    assert tier.manifest("b") is None


def test_a_deleted_template_is_gone_and_its_neighbours_stay(tier: ColdTier) -> None:
    names = ["a", "a/b", "a/bc", "ab", "b"]
    for name in names:
        write_template(tier, name)
    tier.delete("a/b")
    tier.delete("a/b")
    tier.delete("unknown")
    assert {manifest.template for manifest in tier.manifests()} == set(names) - {"a/b"}
    assert not reads_back(tier, "a/b")
    assert all(reads_back(tier, name) for name in names if name != "a/b")
    tier.delete("a")
    assert all(reads_back(tier, name) for name in ["a/bc", "ab", "b"])


def test_a_deleted_template_can_be_written_anew(tier: ColdTier) -> None:
    write_template(tier, "a")
    tier.delete("a")
    size = TemplateSize(1, 1, 10)
    write_template(tier, "a", size)
    assert reads_back(tier, "a", size)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 600])
def test_impossible_names_are_refused(tier: ColdTier, name: str) -> None:
    with pytest.raises(CacheError, match="name"):
        tier.write_steps(name, SIZE, [(0, step_slab("a", SIZE, 0))])


def test_a_closed_tier_says_so(tier: ColdTier) -> None:
    write_template(tier, "a")
    tier.close()
    tier.close()
    with pytest.raises(CacheError, match="closed"):
        tier.read_step("a", SIZE, 0, Slab.private(SIZE.step_bytes))
    with pytest.raises(CacheError, match="closed"):
        write_template(tier, "b")
