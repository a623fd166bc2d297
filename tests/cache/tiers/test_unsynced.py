"""A restart of the machine amid unsynced writes is noticed; one of the process is not minded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from instgenie_cache import CacheError
from instgenie_cache.tiers.unsynced import UnsyncedMark


def test_only_another_boot_counts(tmp_path: Path) -> None:
    mark = UnsyncedMark(tmp_path, "one")
    assert not mark.is_from_before_a_restart()
    mark.set()
    assert not UnsyncedMark(tmp_path, "one").is_from_before_a_restart()
    assert UnsyncedMark(tmp_path, "two").is_from_before_a_restart()


def test_once_cleared_it_says_nothing_and_can_be_set_again(tmp_path: Path) -> None:
    mark = UnsyncedMark(tmp_path, "one")
    mark.set()
    mark.clear()
    assert not UnsyncedMark(tmp_path, "two").is_from_before_a_restart()
    mark.set()
    assert UnsyncedMark(tmp_path, "two").is_from_before_a_restart()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_mark_that_says_nothing_counts_by_its_age(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "unsynced"
    path.write_bytes(content)
    assert not UnsyncedMark(tmp_path, "one").is_from_before_a_restart()
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(path, (booted - 60, booted - 60))
    assert UnsyncedMark(tmp_path, "one").is_from_before_a_restart()


def test_where_the_boot_is_unknown_the_age_counts_as_well(tmp_path: Path) -> None:
    UnsyncedMark(tmp_path, "").set()
    assert not UnsyncedMark(tmp_path, "").is_from_before_a_restart()
    os.utime(tmp_path / "unsynced", (0, 0))
    assert UnsyncedMark(tmp_path, "").is_from_before_a_restart()


def test_a_mark_is_never_there_by_half(tmp_path: Path) -> None:
    (tmp_path / "unsynced").mkdir()  # so that it cannot be put in place
    mark = UnsyncedMark(tmp_path, "one")
    mark.is_set = False
    with pytest.raises(CacheError, match="cannot be written"):
        mark.set()
    (tmp_path / "unsynced").rmdir()
    assert not UnsyncedMark(tmp_path, "one").is_set
    mark.set()
    assert [path.name for path in tmp_path.iterdir()] == ["unsynced"]
    assert (tmp_path / "unsynced").read_text() == "one"
