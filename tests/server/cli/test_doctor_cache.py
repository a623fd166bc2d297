"""`instgenie doctor --cache`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instgenie_cache import Record, TemplateSize
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.tiers.disk_env import DATA_NAME
from instgenie_cache.tiers.folder_lock import FolderLock
from tests.server.cli.conftest import Run

SIZE = TemplateSize(steps=2, blocks=2, record_bytes=5000)
PAYLOAD = b"\xa5" * SIZE.record_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two templates."""
    store = build_store(StoreSettings(host_bytes=8 << 20, folder=tmp_path / "records", disk_bytes=64 << 20))
    for template in ("a", "b"):
        with store.create(template, SIZE) as writer:
            for step in range(SIZE.steps):
                for block in range(SIZE.blocks):
                    writer.put(step, block, Record("raw", "uint8", (SIZE.record_bytes,), memoryview(PAYLOAD)))
            writer.commit()
    store.close()
    return tmp_path / "records"


@pytest.fixture
def broken(folder: Path) -> Path:
    """With a bit flipped in a record of one of them."""
    data = folder / DATA_NAME
    content = bytearray(data.read_bytes())
    content[content.index(PAYLOAD) + 100] ^= 1
    data.write_bytes(content)
    return folder


def test_whole(run: Run, folder: Path) -> None:
    result = run("doctor", "--cache", folder, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["ok"], report["templates"], report["records"]) == (True, 2, 8)
    assert 0 <= report["free_share"] < 1


def test_broken(run: Run, broken: Path) -> None:
    result = run("doctor", "--cache", broken, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["ok"], report["corrupt_records"], len(report["broken_templates"])) == (False, 1, 1)
    assert run("doctor", "--cache", broken).exit_code == 1  # nothing was dropped without being asked to


def test_repaired(run: Run, broken: Path) -> None:
    repaired = run("doctor", "--cache", broken, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert "is dropped" in repaired.stdout
    assert "2; after the repair 1" in repaired.stdout
    report = json.loads(run("doctor", "--cache", broken, "--json").stdout)
    assert (report["ok"], report["templates"], report["records"]) == (True, 1, 4)


def test_the_counts_of_a_repair_are_those_before_and_after_it(run: Run, broken: Path) -> None:
    report = json.loads(run("doctor", "--cache", broken, "--repair", "--json").stdout)
    left = report["after_repair"]
    assert (report["ok"], report["is_repaired"], report["templates"], report["records"]) == (True, True, 2, 7)
    assert (left["ok"], left["is_repaired"], left["templates"], left["records"]) == (True, False, 1, 4)


def test_a_file_that_was_set_aside_has_nothing_left(run: Run, folder: Path) -> None:
    (folder / DATA_NAME).write_bytes(b"garbage" * 10_000)
    report = json.loads(run("doctor", "--cache", folder, "--repair", "--json").stdout)
    assert report["unreadable"]
    assert (report["ok"], report["after_repair"]["ok"], report["after_repair"]["templates"]) == (True, True, 0)


def test_in_use(run: Run, broken: Path) -> None:
    lock = FolderLock(broken)
    lock.take()
    try:
        result = run("doctor", "--cache", broken, "--repair")
    finally:
        lock.release()
    assert result.exit_code == 1
    assert "once nobody uses the folder" in result.stdout


@pytest.mark.parametrize("options", [("--cache", "/gone/away"), ("--repair",)])
def test_wrong_use(run: Run, options: tuple[str, ...]) -> None:
    assert run("doctor", *options).exit_code == 2
