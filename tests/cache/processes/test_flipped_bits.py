"""Bits that flip on the disk while the service is down: found, counted, never read."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from instgenie_cache import RecordKey, TemplateSize
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.records.manifest import MAGIC as MANIFEST_MAGIC
from instgenie_cache.records.record import encode_header
from instgenie_cache.tiers.verify import verify_folder
from instgenie_cache.wire.messages import ArenaUse
from tests.cache.named_templates import name_of, reads_back, record_of, write
from tests.cache.processes.service_program import ServiceProgram, service_program
from tests.cache.service_records import PATIENT

SIZE = TemplateSize(steps=3, blocks=2, record_bytes=6000)
HURT_RECORD = 1, 1  # step and block
RECORD_FLAWS = {  # byte of the stored record, and bit
    "first-payload-byte": (256, 0),
    "last-payload-byte": (256 + 5999, 7),
    "magic": (3, 1),
    "length": (4, 0),
    "checksum": (8, 3),
    "description": (20, 0),
    "padding": (255, 4),
}
MANIFEST_FLAWS = {"magic": (0, 0), "checksum": (4, 7), "template": (15, 0), "numbers": (45, 1)}
ARENA_USES: tuple[ArenaUse, ...] = ("read", "none")
NAMES = {flaw: name_of(f"n/hurt-{flaw}", SIZE) for flaw in (*RECORD_FLAWS, *MANIFEST_FLAWS)}
WHOLE = name_of("n/whole", SIZE)
FLAGS = ("--host-bytes", "64MiB", "--disk-bytes", "64MiB", "--log-level", "error", "--set", "warm_start=false")
CORRUPT = "instgenie_cache_corrupt_records_total"


def client_of(service: ServiceProgram, arena: ArenaUse = "read") -> ServiceStore:
    return ServiceStore.connect(service.unix, client="test", arena=arena, settings=PATIENT)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service that was stopped, with templates on disk."""
    with service_program(tmp_path_factory.mktemp("written") / "f", *FLAGS) as service:
        store = client_of(service)
        for template in (*NAMES.values(), WHOLE):
            write(store, template)
        store.close()
        assert service.stop() == 0
    assert verify_folder(service.folder).templates == len({*NAMES.values(), WHOLE})
    return service.folder


@pytest.fixture
def service(written: Path, tmp_path: Path) -> Iterator[ServiceProgram]:
    """Not started, on a copy of the folder; it will be gone at the end."""
    shutil.copytree(written, tmp_path / "f")
    service = ServiceProgram(tmp_path / "f", *FLAGS)
    yield service
    service.kill()


def flip(folder: Path, needle: bytes, position: int, bit: int) -> None:
    """Flip a bit so many bytes after the beginning of a text, wherever that is in the data file."""
    path = folder / "data.mdb"
    data = bytearray(path.read_bytes())
    found = data.find(needle)
    assert found >= 0, "what is to be broken is not there"
    while found >= 0:
        data[found + position] ^= 1 << bit
        found = data.find(needle, found + 1)
    path.write_bytes(data)


def flip_record(folder: Path, template: str, position: int, bit: int) -> None:
    """Flip a bit of one record of a template."""
    flip(folder, encode_header(RecordKey(template, *HURT_RECORD), record_of(template, *HURT_RECORD)), position, bit)


def flip_manifest(folder: Path, template: str, position: int, bit: int) -> None:
    """Flip a bit of a template's manifest."""
    data = (folder / "data.mdb").read_bytes()
    found = data.find(MANIFEST_MAGIC)
    ahead = 14  # of the name
    while not data[found + ahead :].startswith(template.encode()):
        found = data.find(MANIFEST_MAGIC, found + 1)
        assert found >= 0, f"there is no manifest of {template}"
    flip(folder, data[found : found + ahead + len(template)], position, bit)


@pytest.mark.parametrize("arena", ARENA_USES)
def test_flipped_bits_of_records_are_found_dropped_and_counted(service: ServiceProgram, arena: ArenaUse) -> None:
    hurt = {NAMES[flaw]: place for flaw, place in RECORD_FLAWS.items()}
    for template, (position, bit) in hurt.items():
        flip_record(service.folder, template, position, bit)
    report = verify_folder(service.folder)
    assert report.corrupt_records == len(hurt)
    assert set(report.broken_templates) == hurt.keys()
    assert not report.ok

    service.start()
    store = client_of(service, arena)
    for count, template in enumerate(hurt):
        lease = store.lease(template)
        assert lease is not None
        assert lease.tier == "disk"
        assert lease.step(HURT_RECORD[0]) is None, template
        lease.release()
        assert not store.holds(template)
        assert store.lease(template) is None
        assert service.metric(CORRUPT, 'tier="disk"') == count + 1
    assert reads_back(store, WHOLE)

    for template in hurt:  # computed anew
        write(store, template)
        assert reads_back(store, template)
    store.close()
    assert service.stop() == 0
    report = verify_folder(service.folder)
    assert report.ok, report
    assert report.templates == len({*NAMES.values(), WHOLE})


def test_sweep_finds_what_is_broken_before_anybody_reads_it(service: ServiceProgram) -> None:
    flip_record(service.folder, NAMES["length"], 1000, 5)
    service.start()
    assert service.sweep().dropped == 1
    assert set(service.templates()) == {*NAMES.values(), WHOLE} - {NAMES["length"]}
    assert service.metric(CORRUPT, 'tier="disk"') == 1
    assert service.stop() == 0
    assert verify_folder(service.folder).ok


def test_flipped_bits_of_manifests_are_found_dropped_and_counted(service: ServiceProgram) -> None:
    hurt = {NAMES[flaw]: place for flaw, place in MANIFEST_FLAWS.items()}
    for template, (position, bit) in hurt.items():
        flip_manifest(service.folder, template, position, bit)
    report = verify_folder(service.folder)
    assert report.broken_manifests == len(hurt)
    assert not report.ok

    service.start()
    assert set(service.templates()) == {*NAMES.values(), WHOLE} - hurt.keys()
    assert service.metric(CORRUPT, 'tier="disk"') == len(hurt)
    report = verify_folder(service.folder)
    assert report.in_use
    assert report.half_templates == 0, "records of a template whose manifest was dropped are still there"
    store = client_of(service)
    for template in hurt:
        assert store.lease(template) is None
        write(store, template)
        assert reads_back(store, template)
    assert reads_back(store, WHOLE)
    store.close()


def test_repair_drops_what_is_broken_and_nothing_else(service: ServiceProgram) -> None:
    flip_record(service.folder, NAMES["magic"], 300, 0)
    flip_manifest(service.folder, NAMES["numbers"], 30, 0)
    assert verify_folder(service.folder, repair=True).is_repaired
    assert verify_folder(service.folder).ok
    service.start()
    assert set(service.templates()) == {*NAMES.values(), WHOLE} - {NAMES["magic"], NAMES["numbers"]}


def test_file_with_bits_flipped_all_over_is_no_reason_not_to_start(service: ServiceProgram) -> None:
    path, chance = service.folder / "data.mdb", random.Random(1)
    data = bytearray(path.read_bytes())
    for page in range(0, len(data), 4096):
        for _ in range(20):
            data[page + chance.randrange(4096)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    service.start()
    store = client_of(service)
    for template in (*NAMES.values(), WHOLE):
        assert not reads_back(store, template)
    new = name_of("n/new", SIZE)
    write(store, new)
    assert reads_back(store, new)
    store.close()
