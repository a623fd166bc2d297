"""A broken data file is marked, then set aside once."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie_cache import CacheError
from instgenie_cache.tiers.broken_file import mark_broken, set_aside, why_marked


def test_the_first_reason_is_kept_until_the_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"x")
    assert why_marked(tmp_path) is None
    mark_broken(tmp_path, "page 7")
    mark_broken(tmp_path, "page 8")
    assert why_marked(tmp_path) == "page 7"
    set_aside(tmp_path, "page 7")
    assert why_marked(tmp_path) is None
    [aside] = tmp_path.iterdir()
    assert aside.name.startswith("data.mdb.broken-")
    assert aside.read_bytes() == b"x"


def test_a_mark_without_a_file_goes_with_it(tmp_path: Path) -> None:
    mark_broken(tmp_path, "page 7")
    set_aside(tmp_path, "page 7")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_mark_is_one(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    assert why_marked(tmp_path)


def test_a_mark_that_cannot_be_written_is_an_error_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot be written"):
        mark_broken(tmp_path / "nowhere", "page 7")
