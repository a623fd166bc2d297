"""Records that `instgenie edit` leaves, and finds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instgenie_cache.tiers.disk_env import DATA_NAME
from instgenie_cache.tiers.folder_lock import FolderLock
from instgenie_cache.tiers.verify import verify_folder
from tests.server.cli.conftest import Run

Edit = Callable[..., dict[str, object]]


@pytest.fixture
def timed(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> Edit:
    """Runs an edit: what `--timings` prints, and what is on stderr as `stderr`."""

    def run(*options: str | Path) -> dict[str, object]:
        result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--timings", *options)
        assert result.exit_code == 0, result.output
        report: dict[str, object] = json.loads(result.stdout)
        return report | {"stderr": result.stderr}

    return run


def found(report: dict[str, object]) -> tuple[object, object]:
    return report["cache"], report["tier"]


def test_the_second_one_is_served_from_disk(timed: Edit, cache_home: Path) -> None:
    assert found(timed("--cache", "on")) == ("cold", None)
    second = timed("--cache", "on", "--seed", "5")
    assert found(second) == ("hit", "disk")
    assert "records came from disk" in str(second["stderr"])
    assert verify_folder(cache_home / "instgenie" / "records").templates == 1


def test_records_that_are_there_are_used_even_where_recording_does_not_pay(timed: Edit) -> None:
    wide = ("--halo", "2")
    assert found(timed(*wide)) == ("off", None)
    timed("--cache", "on")
    assert found(timed(*wide)) == ("hit", "disk")


def test_a_folder_of_ones_own(timed: Edit, tmp_path: Path, cache_home: Path) -> None:
    folder = tmp_path / "records"
    timed("--cache", "on", "--cache-dir", folder)
    assert found(timed("--cache", "on", "--cache-dir", folder)) == ("hit", "disk")
    assert not cache_home.exists()


@pytest.mark.parametrize("options", [("--cache", "on", "--cache-dir", "none"), ("--cache", "off")])
def test_nothing_is_left(timed: Edit, cache_home: Path, options: tuple[str, ...]) -> None:
    timed(*options)
    assert timed(*options)["cache"] in ("cold", "off")
    assert not cache_home.exists()


def test_records_of_another_model_are_none(timed: Edit, tiny_flux_fill: Path) -> None:
    options = ("--cache", "on", "--halo", "0")
    timed(*options)
    assert found(timed(*options, "--model", tiny_flux_fill)) == ("cold", None)
    assert found(timed(*options)) == ("hit", "disk")


def broken_parent(folder: Path) -> None:
    folder.parent.write_text("")


def broken_data(folder: Path) -> None:
    folder.mkdir()
    (folder / DATA_NAME).write_bytes(b"no database" * 1000)


def a_dead_socket(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "cache.sock")


def no_file_of_data(folder: Path) -> None:
    (folder / DATA_NAME).mkdir(parents=True)


@pytest.mark.parametrize("spoil", [broken_parent, broken_data, a_dead_socket, no_file_of_data])
def test_a_broken_folder_fails_no_edit(timed: Edit, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = tmp_path / "parent" / "records"
    if spoil is not broken_parent:
        folder.parent.mkdir()
    spoil(folder)
    assert found(timed("--cache", "on", "--cache-dir", folder)) == ("cold", None)


def test_a_folder_that_another_process_uses_is_told(
    timed: Edit, cache_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cache_home / "instgenie" / "records"
    lock = FolderLock(folder)
    lock.take()
    try:
        assert found(timed("--cache", "on")) == ("cold", None)
    finally:
        lock.release()
    (warning,) = caplog.records
    assert "in memory alone" in warning.getMessage()
    assert str(folder) in warning.getMessage()


def test_a_disk_budget_that_is_too_small_fails_no_edit(timed: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTGENIE_CACHE__DISK_BYTES", "1")
    assert timed("--cache", "on")["cache"] in ("cold", "refused")


def test_not_with_a_server(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    options = ("--server", "http://127.0.0.1:1", "--cache-dir", tmp_path)
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 2
