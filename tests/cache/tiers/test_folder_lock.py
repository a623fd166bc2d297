"""A folder has one owner at a time."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from instgenie_cache import CacheError
from instgenie_cache.tiers.folder_lock import FolderInUseError, FolderLock


def test_a_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    with pytest.raises(FolderInUseError, match=str(tmp_path)):
        second.take()
    first.release()
    second.take()
    second.release()
    second.release()


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "new" / "folder")
    lock.take()
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o700
    lock.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match="file"):
        FolderLock(tmp_path / "file").take()


def test_those_who_share_it_keep_owners_out(tmp_path: Path) -> None:
    first, second, owner = FolderLock(tmp_path), FolderLock(tmp_path), FolderLock(tmp_path)
    owner.take()
    with pytest.raises(FolderInUseError):
        first.share()
    owner.release()
    first.share()
    second.share()
    with pytest.raises(FolderInUseError):
        owner.take()
    first.release()
    second.release()
    owner.take()
    owner.release()


def test_sharing_makes_nothing(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.share()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_opened_is_not_in_use(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("lock")
    for enter in (FolderLock(tmp_path).take, FolderLock(tmp_path).share):
        with pytest.raises(CacheError, match="cannot be opened") as caught:
            enter()
        assert not isinstance(caught.value, FolderInUseError)
