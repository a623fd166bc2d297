"""Deletions on a disk without any room, and those that fail half-way."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from instgenie_cache import StoreFullError
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.disk_env import DiskEnv, Transaction
from instgenie_cache.tiers.disk_tier import DiskTier, SyncPolicy
from instgenie_cache.tiers.folder_lock import FolderLock
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.templates import SIZE, reads_back, step_slab, write_template

BUDGET_BYTES = 64 << 20
LARGE = TemplateSize(steps=4, blocks=4, record_bytes=500_000)  # 8 MB


class FullEnv(DiskEnv):
    """Has no room for deletions after so many of them."""

    deletions_left: int | None = None

    def write(self, change: Callable[[Transaction], object], *, is_deletion: bool = False) -> None:
        if is_deletion and self.deletions_left is not None:
            if self.deletions_left == 0:
                raise StoreFullError("no room")
            self.deletions_left -= 1
        super().write(change, is_deletion=is_deletion)


@pytest.fixture
def env(tmp_path: Path) -> FullEnv:
    return FullEnv(tmp_path, BUDGET_BYTES)


@pytest.fixture
def tier(tmp_path: Path, env: FullEnv) -> Iterator[DiskTier]:
    """Templates a and b, written whole, and half of c."""
    tier = DiskTier(tmp_path, FolderLock(tmp_path), env, BUDGET_BYTES, None)
    write_template(tier, "a")
    write_template(tier, "b")
    tier.write_steps("c", SIZE, [(0, step_slab("c", SIZE, 0))])
    yield tier
    tier.close()


def num_records(env: DiskEnv) -> int:
    with env.read() as txn:
        return txn.stat(env.records)["entries"]


@pytest.mark.parametrize("deletions", [0, 1])
@pytest.mark.parametrize("template", ["a", "c"])
def test_a_deletion_that_failed_can_be_called_again(
    tier: DiskTier, env: FullEnv, template: str, deletions: int
) -> None:
    left = num_records(env) - (SIZE.records if template == "a" else SIZE.blocks)
    env.deletions_left = deletions
    with pytest.raises(StoreFullError):
        tier.delete(template)
    assert num_records(env) > left
    assert tier.manifest("b") is not None
    env.deletions_left = None
    tier.delete(template)
    assert num_records(env) == left
    assert tier.manifest(template) is None
    for name in "abc":
        tier.delete(name)
    assert tier.used_bytes == 0


def test_a_deletion_that_failed_at_once_has_changed_nothing(tier: DiskTier, env: FullEnv) -> None:
    env.deletions_left = 0
    with pytest.raises(StoreFullError):
        tier.delete("a")
    assert tier.manifest("a") is not None
    assert reads_back(tier, "a")


def test_what_a_deletion_left_is_swept(tier: DiskTier, env: FullEnv) -> None:
    env.deletions_left = 1
    with pytest.raises(StoreFullError):
        tier.delete("a")
    env.deletions_left = None
    assert tier.sweep() == SIZE.records
    assert tier.sweep() == 0


def test_what_a_deletion_left_is_dropped_before_the_template_is_written_anew(
    tier: DiskTier, env: FullEnv, tmp_path: Path
) -> None:
    env.deletions_left = 1
    with pytest.raises(StoreFullError):
        tier.delete("a")
    env.deletions_left = None
    smaller = TemplateSize(1, 1, 100)
    write_template(tier, "a", smaller)
    assert reads_back(tier, "a", smaller)
    tier.close()
    assert verify_folder(tmp_path).surplus_records == 0


def test_a_start_without_room_to_sweep_is_a_start(tmp_path: Path) -> None:
    class FullTier(DiskTier):
        def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
            raise StoreFullError("no room")

    DiskTier.open(tmp_path, BUDGET_BYTES).close()
    tier = FullTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    assert reads_back(tier, "a")
    tier.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill_up(path: Path) -> None:
    """Take what is left of a disk."""
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, 4096):
            try:
                while file.write(bytes(piece)):
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("sync", ["commit", "interval"])
def test_templates_are_deleted_on_a_disk_without_any_room(small_disk: Path, sync: SyncPolicy) -> None:
    names = [f"t{number}" for number in range(4)]
    tier = DiskTier.open(small_disk, BUDGET_BYTES, sync)
    for name in names:
        write_template(tier, name, LARGE)
    tier.sync()
    fill_up(small_disk / "of others")
    with pytest.raises(StoreFullError, match=str(small_disk)):
        write_template(tier, "more", LARGE)
    for name in names[:3]:
        tier.delete(name)
        assert not reads_back(tier, name, LARGE)
    assert reads_back(tier, names[3], LARGE)
    write_template(tier, "new", LARGE)  # in the place of the others
    assert reads_back(tier, "new", LARGE)
    tier.close()
    tier = DiskTier.open(small_disk, BUDGET_BYTES, sync)
    assert {manifest.template for manifest in tier.manifests()} == {names[3], "new"}
    tier.delete(names[3])
    tier.delete("new")
    (small_disk / "of others").unlink()
    write_template(tier, "newer", LARGE)
    tier.close()
    assert verify_folder(small_disk).ok


@contextmanager
def longest_file(num_bytes: int) -> Iterator[None]:
    """Let this process write no longer file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("spare_bytes", [0, 28 << 10, 300 << 10, 1540 << 10])
def test_room_of_the_last_deletions_is_used_at_once_on_a_full_disk(tmp_path: Path, spare_bytes: int) -> None:
    """LMDB gives it out only to the change after the next, and one that fails is none."""
    size = TemplateSize(steps=2, blocks=2, record_bytes=500_000)
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)

    def write(name: str) -> bool:
        try:
            tier.write_steps(name, size, [(step, step_slab(name, size, step)) for step in range(size.steps)])
            tier.commit(Manifest(name, size, cost_ms=1.0, created=2.0))
        except StoreFullError:
            return False
        return True

    with longest_file((12 << 20) + spare_bytes):
        number = 0
        while write(f"t{number}"):
            number += 1
        for name in ("t0", "t1"):
            tier.delete(name)
        assert write("new")
        assert reads_back(tier, "new", size)
    tier.close()
    assert verify_folder(tmp_path).ok
