"""What `instgenie doctor --cache` finds in a folder, and what it repairs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from instgenie_cache import CacheError
from instgenie_cache.records.record import RecordKey
from instgenie_cache.tiers.disk_keys import record_key
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.folder_lock import FolderLock
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.templates import SIZE, reads_back, step_slab, write_template

BUDGET_BYTES = 64 << 20
VICTIM = record_key(RecordKey("b", 1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Templates a and b."""
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    write_template(tier, "b")
    tier.close()
    return tmp_path


def edit(folder: Path, database: bytes, change: Callable[[lmdb.Transaction[bytes]], object]) -> None:
    with lmdb.open(str(folder), max_dbs=2) as env:
        db = env.open_db(database)
        with env.begin(write=True, db=db) as txn:
            change(txn)


def flip(key: bytes) -> Callable[[lmdb.Transaction[bytes]], object]:
    def change(txn: lmdb.Transaction[bytes]) -> None:
        value = bytearray(txn.get(key) or b"")
        value[-1] ^= 1
        txn.put(key, bytes(value))

    return change


def test_a_healthy_folder_is_ok(folder: Path) -> None:
    report = verify_folder(folder)
    assert report.ok
    assert (report.templates, report.records) == (2, 2 * SIZE.records)
    assert report.record_bytes == 2 * SIZE.records * SIZE.stored_record_bytes
    assert report.file_bytes > report.record_bytes
    assert 0 <= report.free_share < 1
    assert not report.in_use


def test_corrupt_records_are_found_and_their_template_is_dropped(folder: Path) -> None:
    edit(folder, b"records", flip(VICTIM))
    report = verify_folder(folder)
    assert not report.ok
    assert (report.corrupt_records, report.broken_templates) == (1, ("b",))
    assert report.records == 2 * SIZE.records - 1
    repaired = verify_folder(folder, repair=True)
    assert (repaired.is_repaired, repaired.templates) == (True, 2)
    after = verify_folder(folder)
    assert after.ok
    assert after.templates == 1
    assert repaired.after_repair == after


def test_missing_records_are_found(folder: Path) -> None:
    edit(folder, b"records", lambda txn: txn.delete(VICTIM))
    report = verify_folder(folder)
    assert (report.missing_records, report.broken_templates, report.ok) == (1, ("b",), False)


def test_surplus_records_are_found(folder: Path) -> None:
    edit(folder, b"records", lambda txn: txn.put(record_key(RecordKey("b", 9, 9)), b"x"))
    report = verify_folder(folder)
    assert (report.surplus_records, report.broken_templates, report.ok) == (1, ("b",), False)


def test_broken_manifests_are_found_and_dropped(folder: Path) -> None:
    edit(folder, b"manifests", flip(b"a"))
    report = verify_folder(folder, repair=True)
    assert (report.broken_manifests, report.templates, report.ok) == (1, 1, True)
    after = verify_folder(folder)
    assert (after.ok, after.templates, after.half_templates) == (True, 1, 0)


def test_half_written_templates_are_found_and_dropped(folder: Path) -> None:
    record = bytes(step_slab("c", SIZE, 0).read(0, SIZE.stored_record_bytes))
    edit(folder, b"records", lambda txn: txn.put(record_key(RecordKey("c", 0, 0)), record))
    report = verify_folder(folder)
    assert (report.half_templates, report.ok) == (1, False)
    verify_folder(folder, repair=True)
    assert verify_folder(folder).half_templates == 0


def test_a_file_that_cannot_be_read_is_set_aside(folder: Path) -> None:
    (folder / "data.mdb").write_bytes(b"garbage" * 10_000)
    report = verify_folder(folder)
    assert report.unreadable
    assert not report.ok
    assert verify_folder(folder, repair=True).ok
    after = verify_folder(folder)
    assert (after.ok, after.templates) == (True, 0)


def test_what_deletions_free_counts_as_free(folder: Path) -> None:
    tier = DiskTier.open(folder, BUDGET_BYTES)
    before = tier.fill().free_bytes
    tier.delete("a")
    after = tier.fill().free_bytes
    tier.close()
    assert after - before >= SIZE.records * SIZE.record_bytes
    assert verify_folder(folder).free_share > 0.3


def test_a_folder_in_use_is_checked_and_left_as_it_is(folder: Path) -> None:
    edit(folder, b"records", flip(VICTIM))
    tier = DiskTier.open(folder, BUDGET_BYTES)
    tier.write_steps("c", SIZE, [(0, step_slab("c", SIZE, 0))])
    code = (
        "import sys; from instgenie_cache.tiers.verify import verify_folder;"
        "r = verify_folder(sys.argv[1], repair=True);"
        "print(r.in_use, r.ok, r.is_repaired, r.templates, r.corrupt_records, r.half_templates)"
    )
    root = Path(__file__).parents[3]
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={"PYTHONPATH": str(root / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.stdout.split() == ["True", "False", "False", "2", "1", "1"], child.stderr
    assert tier.manifest("b") is not None
    assert reads_back(tier, "a")
    tier.close()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def break_record(folder: Path) -> None:
    edit(folder, b"records", flip(VICTIM))


def break_manifest(folder: Path) -> None:
    edit(folder, b"manifests", flip(b"a"))


def cut(folder: Path) -> None:
    data = folder / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)


def overwrite(folder: Path) -> None:
    (folder / "data.mdb").write_bytes(b"garbage" * 10_000)


def lose_lock_files(folder: Path) -> None:
    (folder / "lock").unlink()
    (folder / "lock.mdb").unlink()


@pytest.mark.parametrize("hurt", [break_record, break_manifest, cut, overwrite, lose_lock_files])
def test_without_repair_nothing_is_changed(folder: Path, hurt: Callable[[Path], None]) -> None:
    hurt(folder)
    before = contents(folder)
    assert verify_folder(folder).ok == (hurt is lose_lock_files)
    assert contents(folder) == before


def test_a_file_that_was_cut_cannot_be_read(folder: Path) -> None:
    cut(folder)
    report = verify_folder(folder)
    assert "cut off" in (report.unreadable or "")
    assert not report.ok
    assert verify_folder(folder, repair=True).ok
    DiskTier.open(folder, BUDGET_BYTES).close()
    assert verify_folder(folder).ok


def test_a_lock_that_cannot_be_opened_is_told_of_as_such(folder: Path) -> None:
    (folder / "lock").unlink()
    (folder / "lock").symlink_to("lock")
    report = verify_folder(folder)
    assert "cannot be opened" in (report.unreadable or "")
    assert not report.in_use
    assert not report.ok


def test_two_can_verify_at_once(folder: Path) -> None:
    lock = FolderLock(folder)
    lock.share()
    report = verify_folder(folder)
    lock.release()
    assert report.ok
    assert not report.in_use


def test_a_folder_without_a_cache_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no data\.mdb"):
        verify_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
