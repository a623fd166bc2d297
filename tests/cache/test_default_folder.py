"""Where records are, and how much room they get, where nobody says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instgenie_cache import default_folder as default_folder_module
from instgenie_cache.default_folder import MAX_DEFAULT_DISK_BYTES, default_disk_bytes, default_folder
from instgenie_cache.machine import free_disk_bytes
from instgenie_cache.tiers.disk_env import DATA_NAME


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/instgenie/records"),
        ({"XDG_CACHE_HOME": ""}, "~/.cache/instgenie/records"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/instgenie/records"),
        ({}, "~/.cache/instgenie/records"),
    ],
)
def test_it_is_below_the_cache_home(environ: dict[str, str], expected: str) -> None:
    assert default_folder(environ) == Path(expected)


def test_a_quarter_of_what_is_free_or_32_gb(tmp_path: Path) -> None:
    expected = min(MAX_DEFAULT_DISK_BYTES, free_disk_bytes(tmp_path) // 4)
    assert default_disk_bytes(tmp_path / "gone") == pytest.approx(expected, rel=0.05)


def test_what_is_there_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a command without settings would evict what a server with a larger budget keeps."""
    monkeypatch.setattr(default_folder_module, "MAX_DEFAULT_DISK_BYTES", 1000)
    with (tmp_path / DATA_NAME).open("wb") as file:
        os.truncate(file.fileno(), 5000)
    assert default_disk_bytes(tmp_path) == 5000
