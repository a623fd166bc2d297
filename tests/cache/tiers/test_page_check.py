"""Whether LMDB's pages hang together is seen without LMDB."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from instgenie_cache import CacheError
from instgenie_cache.records.record import RecordKey
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.page_check import find_page_fault
from tests.cache.damage import lose_pages
from tests.cache.templates import write_template

PAGE_BYTES = 4096


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a tier with some templates, and pages that a deleted one left."""
    tier = DiskTier.open(tmp_path, 64 << 20)
    for number in range(30):
        write_template(tier, f"t{number}")
    tier.delete("t3")
    tier.delete("t20")
    tier.close()
    return tmp_path / "data.mdb"


def pages_of_kind(data: bytes, flags: int) -> list[int]:
    """Pages that are in use as branches (1), leaves (2), beginnings of long values (4), or were."""
    return [
        number
        for number in range(2, len(data) // PAGE_BYTES)
        if int.from_bytes(data[number * PAGE_BYTES :][:8], "little") == number
        and int.from_bytes(data[number * PAGE_BYTES + 10 :][:2], "little") == flags
    ]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_lmdb_writes_is_whole(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with lmdb.open(str(tmp_path), map_size=1 << 30, max_dbs=2, sync=False) as env:
        databases = [env.open_db(b"records"), env.open_db(b"manifests")]
        assert find_page_fault(tmp_path / "data.mdb") is None
        for _ in range(60):
            with env.begin(write=True, buffers=True) as txn:
                for _ in range(chance.randrange(60)):
                    db = chance.choice(databases)
                    key = b"%d" % chance.randrange(30 * 10**seed) + b"x" * chance.randrange(300)
                    if chance.random() < 0.6:
                        txn.put(key, bytes(chance.choice([0, 300, 1500, 9000, 70_000])), db=db)
                    else:
                        cursor = txn.cursor(db=db)
                        if cursor.set_range(key):
                            txn.delete(bytes(cursor.key()), db=db)
            for thorough in (True, False):
                assert find_page_fault(tmp_path / "data.mdb", thorough=thorough) is None


def test_pages_of_a_tier_are_whole(data: Path) -> None:
    assert find_page_fault(data) is None


def test_a_pointer_out_of_the_file_is_found(data: Path) -> None:
    lose_pages(data.parent, RecordKey("t7", 1, 0))
    assert "in use" in (find_page_fault(data) or "")


@pytest.mark.parametrize("flags", [1, 2, 4])
@pytest.mark.parametrize("position", [0, 10, 12, 15])
def test_flipped_bits_in_the_heads_of_pages_are_found(data: Path, flags: int, position: int) -> None:
    whole = data.read_bytes()
    found = 0
    for number in pages_of_kind(whole, flags):
        broken = bytearray(whole)
        broken[number * PAGE_BYTES + position] ^= 0x40
        data.write_bytes(broken)
        found += find_page_fault(data) is not None
    assert found  # of pages that are free nobody looks at the head


@pytest.mark.parametrize("position", [10, 16, 20, 40, 94, 120, 128])
def test_flipped_bits_in_meta_data_are_found(data: Path, position: int) -> None:
    broken = bytearray(data.read_bytes())
    for page in range(2):  # one of them is out of date, and of that only the first fields count
        broken[page * PAGE_BYTES + position] ^= 8
    data.write_bytes(broken)
    assert find_page_fault(data) is not None


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_is_found(data: Path, keep: float, thorough: bool) -> None:
    whole = data.read_bytes()
    data.write_bytes(whole[: int(keep * len(whole))])
    assert "cut off" in (find_page_fault(data, thorough=thorough) or "")


def test_the_heads_of_long_values_are_for_those_who_look_thoroughly(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, 64 << 20)
    write_template(tier, "a")
    tier.close()
    data = tmp_path / "data.mdb"
    [first, *_] = pages_of_kind(data.read_bytes(), 4)
    with data.open("r+b") as file:
        file.seek(first * PAGE_BYTES + 10)
        file.write(b"\0")
    assert "of a long value" in (find_page_fault(data) or "")
    assert find_page_fault(data, thorough=False) is None


@pytest.mark.parametrize("content", [b"", b"x", b"garbage" * 10_000, bytes(65536)])
def test_what_is_no_file_of_lmdb_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    assert find_page_fault(tmp_path / "data.mdb") is not None


def test_a_file_that_cannot_be_read_is_an_error_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot be read"):
        find_page_fault(tmp_path / "data.mdb")
