"""Damage to the pages of LMDB itself, for tests."""

from __future__ import annotations

from pathlib import Path

from instgenie_cache.records.record import RecordKey
from instgenie_cache.tiers.disk_keys import record_key


def patch(folder: Path, needle: bytes, position: int, value: int) -> None:
    """Flip bits of a byte, so far from the beginning of a text, wherever that is; a tier may have the file open."""
    with (folder / "data.mdb").open("r+b") as file:
        data = file.read()
        found = data.find(needle)
        assert found >= 0, f"{needle!r} is not there"
        while found >= 0:
            file.seek(found + position)
            file.write(bytes([data[found + position] ^ value]))
            found = data.find(needle, found + 1)


def lose_pages(folder: Path, key: RecordKey) -> None:
    """Let the pages of a record be looked for beyond the file."""
    needle = record_key(key)
    patch(folder, needle, len(needle) + 6, 0x10)
