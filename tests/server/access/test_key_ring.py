"""The keys of a running server follow the file."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from structlog.testing import capture_logs

from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.key_ring import MAX_AGE_SECONDS, KeyRing
from instgenie_server.access.keys import ScryptCost, StoredKey
from instgenie_server.operator_error import KeyFileError
from tests.server.manual_clock import ManualClock

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CHEAP = ScryptCost(n=2)


async def test_changes_are_seen_after_a_while(tmp_path: Path) -> None:
    file, clock = KeyFile(tmp_path), ManualClock()
    _, first = await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    ring = KeyRing(file, clock)
    assert dict(await ring.keys()) == {first.id: first}
    _, second = await asyncio.to_thread(file.add, "bob", NOW, CHEAP)
    clock.now += MAX_AGE_SECONDS / 2
    assert set(await ring.keys()) == {first.id}
    clock.now += MAX_AGE_SECONDS / 2
    assert set(await ring.keys()) == {first.id, second.id}
    await asyncio.to_thread(file.revoke, first.id)
    clock.now += MAX_AGE_SECONDS
    assert set(await ring.keys()) == {second.id}


async def test_changes_are_seen_at_once_if_asked_for(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    ring = KeyRing(file, ManualClock())
    assert dict(await ring.keys()) == {}
    _, key = await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    assert set(await ring.keys(now=True)) == {key.id}


async def test_file_that_goes_away_takes_the_keys_along(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    ring = KeyRing(file, ManualClock())
    assert len(await ring.keys()) == 1
    await asyncio.to_thread(file.path.unlink)
    assert len(await ring.keys(now=True)) == 0


async def test_damaged_file_keeps_the_last_keys_and_is_told_once(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    _, key = await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    good = await asyncio.to_thread(file.path.read_bytes)
    ring = KeyRing(file, ManualClock())
    assert set(await ring.keys()) == {key.id}
    with capture_logs() as logs:
        for damage in (b"{", b"{{", b"{{{"):
            await asyncio.to_thread(file.path.write_bytes, damage)
            assert set(await ring.keys(now=True)) == {key.id}
            assert set(await ring.keys(now=True)) == {key.id}
    assert {entry["log_level"] for entry in logs} == {"error"}
    assert all(str(file.path) in entry["error"] for entry in logs)
    assert len(logs) <= 3
    await asyncio.to_thread(file.path.write_bytes, good)
    assert set(await ring.keys(now=True)) == {key.id}


class UnreadableForAWhile(KeyFile):
    """A file that fails for a while for a reason that is none of its own, such as too many open files."""

    failures = 0

    def read(self) -> dict[str, StoredKey]:
        if self.failures:
            self.failures -= 1
            raise KeyFileError("too many open files")
        return super().read()


async def test_a_failure_that_passes_does_not_keep_a_revoked_key(tmp_path: Path) -> None:
    file = UnreadableForAWhile(tmp_path)
    _, key = await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    file.failures = 1
    ring = KeyRing(file, ManualClock())
    assert len(await ring.keys()) == 0
    assert set(await ring.keys(now=True)) == {key.id}
    await asyncio.to_thread(file.revoke, key.id)
    file.failures = 3
    with capture_logs() as logs:
        for _ in range(3):
            assert set(await ring.keys(now=True)) == {key.id}
        assert len(await ring.keys(now=True)) == 0
    assert [entry["log_level"] for entry in logs] == ["error", "info"]


async def test_the_same_trouble_is_told_again_once_it_had_passed(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "data")
    await asyncio.to_thread(file.add, "alice", NOW, CHEAP)
    ring = KeyRing(file, ManualClock())
    await ring.keys()
    with capture_logs() as logs:
        for _ in range(2):
            await asyncio.to_thread(file.path.parent.rename, tmp_path / "aside")
            await asyncio.to_thread((tmp_path / "data").write_text, "")
            for _ in range(2):
                assert len(await ring.keys(now=True)) == 1
            await asyncio.to_thread((tmp_path / "data").unlink)
            await asyncio.to_thread((tmp_path / "aside").rename, tmp_path / "data")
            assert len(await ring.keys(now=True)) == 1
    assert [entry["log_level"] for entry in logs] == ["error", "error"]
