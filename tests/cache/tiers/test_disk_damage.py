"""Damage to LMDB's own pages costs templates, never an answer, and at most until the next start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instgenie_cache import CacheError, RecordFormatError
from instgenie_cache.records.record import RecordKey
from instgenie_cache.records.slab import Slab
from instgenie_cache.tiers.disk_keys import record_key
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.page_check import find_page_fault
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.damage import lose_pages, patch
from tests.cache.templates import SIZE, reads_back, write_template

BUDGET_BYTES = 64 << 20
HURT = RecordKey("b", 1, 1)


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[DiskTier]:
    """Templates a, b and c, of which b has a record whose pages got out of reach meanwhile."""
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    for name in "abc":
        write_template(tier, name)
    lose_pages(tmp_path, HURT)
    yield tier
    tier.close()


def test_a_record_whose_pages_lmdb_cannot_find_is_corrupt(tier: DiskTier) -> None:
    with pytest.raises(RecordFormatError, match="damaged"):
        tier.read_step(HURT.template, SIZE, HURT.step, Slab.private(SIZE.step_bytes))
    assert reads_back(tier, "a")


def test_its_template_can_be_dropped_and_the_next_start_sets_the_file_aside(tier: DiskTier) -> None:
    tier.delete("b")
    tier.delete("b")
    assert tier.manifest("b") is None
    assert tier.used_bytes == 2 * tier.footprint_bytes(SIZE)
    assert reads_back(tier, "a")
    assert reads_back(tier, "c")
    for name in ("b", "d"):  # which the next start would throw away
        with pytest.raises(CacheError, match="the next start sets it aside"):
            write_template(tier, name)
    assert tier.used_bytes == 2 * tier.footprint_bytes(SIZE)
    tier.close()
    assert not verify_folder(tier.folder).ok
    tier = DiskTier.open(tier.folder, BUDGET_BYTES)
    assert list(tier.manifests()) == []
    assert len(list(tier.folder.glob("data.mdb.broken-*"))) == 1
    write_template(tier, "b")
    tier.close()
    tier = DiskTier.open(tier.folder, BUDGET_BYTES)
    assert reads_back(tier, "b")
    tier.close()


def test_a_change_that_failed_for_damage_is_remembered_until_the_next_start(tier: DiskTier) -> None:
    tier.delete("b")
    tier.close()
    lose_pages(tier.folder, HURT)  # where they were
    assert find_page_fault(tier.folder / "data.mdb") is None
    assert not verify_folder(tier.folder).ok
    tier = DiskTier.open(tier.folder, BUDGET_BYTES)
    assert list(tier.manifests()) == []
    tier.close()
    assert verify_folder(tier.folder).ok


def test_keys_out_of_order_do_not_keep_a_deletion_busy_for_ever(tier: DiskTier) -> None:
    for block in range(SIZE.blocks):
        patch(tier.folder, record_key(RecordKey("a", 2, block)), 0, 0x1B)  # is z now
    for name in "abc":
        tier.delete(name)
        assert tier.manifest(name) is None
    assert tier.used_bytes == 0


def test_verifying_beside_the_tier_counts_it_as_corrupt_and_reads_the_others(tier: DiskTier) -> None:
    code = (
        "import sys; from instgenie_cache.tiers.verify import verify_folder; r = verify_folder(sys.argv[1]);"
        "print(r.in_use, r.ok, r.corrupt_records, r.broken_templates, r.records)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tier.folder)],
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.stdout.strip() == f"True False 1 ('b',) {3 * SIZE.records - 1}", child.stderr


def test_a_repair_sets_the_file_aside(tier: DiskTier) -> None:
    tier.close()
    assert "in use" in (verify_folder(tier.folder).unreadable or "")
    report = verify_folder(tier.folder, repair=True)
    assert report.is_repaired
    assert report.ok
    after = verify_folder(tier.folder)
    assert (after.ok, after.templates) == (True, 0)
    assert len(list(tier.folder.glob("data.mdb.broken-*"))) == 1


def test_a_length_that_leads_out_of_the_file_kills_nobody(tier: DiskTier) -> None:
    tier.close()
    lose_pages(tier.folder, HURT)  # where they were
    patch(tier.folder, record_key(HURT), -8 + 3, 0x10)  # of the record, and some 256 MB
    assert not verify_folder(tier.folder).ok
    tier = DiskTier.open(tier.folder, BUDGET_BYTES)
    assert list(tier.manifests()) == []
    tier.close()
