"""Room that is set aside, and given back when a deletion needs it."""

from __future__ import annotations

from pathlib import Path

from instgenie_cache.tiers.ballast import Ballast


def taken_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_room_is_taken_and_given_back_once(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    assert not ballast.drop()
    ballast.restore()
    assert taken_bytes(tmp_path) >= 2 << 20
    ballast.restore()
    assert 2 << 20 <= taken_bytes(tmp_path) < 3 << 20
    assert ballast.drop()
    assert taken_bytes(tmp_path) == 0
    assert not ballast.drop()


def test_where_nothing_can_be_taken_there_is_none(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "nowhere")
    ballast.restore()
    assert not ballast.drop()
