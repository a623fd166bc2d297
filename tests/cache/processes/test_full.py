"""A disk that is full, and templates larger than what there is: refused clearly, and the service serves on."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from instgenie_cache import StoreFullError, TemplateSize
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.named_templates import name_of, reads_back, record_of, size_of, write
from tests.cache.processes.service_program import ServiceProgram, service_program
from tests.cache.service_records import PATIENT

SIZE = TemplateSize(steps=2, blocks=2, record_bytes=500_000)
LONG = TemplateSize(steps=30, blocks=1, record_bytes=1_000_000)
DISK_BYTES = 12 << 20
FLAGS = ("--host-bytes", "128MiB", "--disk-bytes", "1GiB", "--log-level", "error")
FAILURES = "instgenie_cache_tier_failures_total"


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A service whose disk takes about `DISK_BYTES`, until there is more of it."""

    service: ServiceProgram
    make_room: Callable[[], None]


@pytest.fixture(params=["tmpfs", "file size"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullDisk]:
    """Full because the file system is, or because the process may not write a longer file."""
    folder = tmp_path / "f"
    if request.param == "file size":
        with service_program(folder, *FLAGS) as service:
            limit_file_size(service, DISK_BYTES)  # only now: the arena counts as a file
            yield FullDisk(service, lambda: limit_file_size(service, resource.RLIM_INFINITY))
        return
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        # The log stays outside, or it would be what fills the disk.
        with service_program(folder, *FLAGS, socket=tmp_path / "s") as service:
            yield FullDisk(service, lambda: _run("mount", "-o", "remount,size=256m", str(folder)))
    finally:
        _run("umount", "--lazy", str(folder))


@pytest.fixture
def store(disk: FullDisk) -> Iterator[ServiceStore]:
    store = client_of(disk.service)
    yield store
    store.close()


def client_of(service: ServiceProgram) -> ServiceStore:
    return ServiceStore.connect(service.unix, client="test", settings=PATIENT)


def limit_file_size(service: ServiceProgram, num_bytes: int) -> None:
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def on_disk(service: ServiceProgram) -> int:
    """Templates that are whole in the folder."""
    report = verify_folder(service.folder)
    assert not report.broken_templates, report
    assert not report.half_templates, report
    return report.templates


def fill(disk: FullDisk, store: ServiceStore) -> list[str]:
    """Write templates until the disk takes no more: those that are on it."""
    templates: list[str] = []
    while True:
        template = name_of(f"n/{len(templates)}", SIZE)
        is_kept = write_or_be_refused(disk, store, template)
        if disk.service.metric(FAILURES, 'tier="disk"'):
            break
        assert is_kept
        templates.append(template)
        assert len(templates) < 30, "the disk is never full"
    assert len(templates) > 2, "nothing fits the disk"
    assert on_disk(disk.service) == len(templates)
    return templates


def write_or_be_refused(disk: FullDisk, store: ServiceStore, template: str) -> bool:
    """Write a template to a disk that may be full; False where it was refused.

    The disk may turn out to be full before the commit, then the template is refused, or after it, then it is kept in
    memory.
    """
    try:
        write(store, template)
    except StoreFullError as error:
        assert f"no room in {disk.service.folder}" in str(error)  # noqa: PT017 - there need not be an error
        assert not store.holds(template)
        return False
    try:
        store.flush()
    except StoreFullError as error:
        assert f"no room in {disk.service.folder}" in str(error)  # noqa: PT017 - as above
    assert reads_back(store, template)
    return True


def test_full_disk_refuses_templates_or_leaves_them_in_memory(disk: FullDisk, store: ServiceStore) -> None:
    templates = fill(disk, store)
    kept = [name for name in (name_of(f"n/more{i}", SIZE) for i in range(5)) if write_or_be_refused(disk, store, name)]
    assert disk.service.metric(FAILURES, 'tier="disk"') > 5
    for template in (*templates, *kept):
        assert reads_back(store, template), template
    assert on_disk(disk.service) == len(templates)


def test_template_that_neither_disk_nor_memory_takes_is_refused(disk: FullDisk, store: ServiceStore) -> None:
    templates = fill(disk, store)
    larger = name_of("n/larger", TemplateSize(steps=200, blocks=1, record_bytes=1_000_000))  # than the memory
    assert not write_or_be_refused(disk, store, larger)
    for template in templates:
        assert reads_back(store, template), template
    assert on_disk(disk.service) == len(templates)


def test_once_there_is_room_templates_are_written_again(disk: FullDisk, store: ServiceStore) -> None:
    templates = fill(disk, store)
    disk.make_room()
    later = name_of("n/later", LONG)
    write(store, later)
    store.flush()
    assert reads_back(store, later)
    assert on_disk(disk.service) == len(templates) + 1
    store.close()
    assert disk.service.stop() == 0

    disk.service.start()
    again = client_of(disk.service)
    assert set(disk.service.templates()) == {*templates, later}  # what was in memory alone is gone
    for template in (*templates, later):
        assert reads_back(again, template), template
    again.close()


def test_deleting_makes_room_on_a_full_disk(disk: FullDisk, store: ServiceStore) -> None:
    templates = fill(disk, store)
    for template in templates[:2]:
        store.delete(template)
    later = [name_of(f"n/later{number}", SIZE) for number in range(2)]
    kept = [template for template in later if write_or_be_refused(disk, store, template)]
    assert kept
    for template in (*templates[2:], *kept):
        assert reads_back(store, template), template
    # The pages of the last deletion are used again only after the next transaction.
    assert len(templates) - 2 < on_disk(disk.service) <= len(templates)


def test_template_larger_than_everything_is_refused_at_once(tmp_path: Path) -> None:
    with service_program(tmp_path / "f", "--host-bytes", "16MiB", "--disk-bytes", "24MiB") as service:
        store = client_of(service)
        held = name_of("n/held", SIZE)
        write(store, held)
        store.flush()
        with pytest.raises(StoreFullError, match=r"a template of \d+ bytes does not fit: 0 of 25165824 bytes"):
            store.create(name_of("n/long", LONG), LONG)
        with pytest.raises(StoreFullError, match=r"a step of \d+ bytes does not fit the 16777216 bytes of the host"):
            store.create("n/wide", TemplateSize(1, 20, 1_000_000))
        assert reads_back(store, held)
        store.close()


def test_template_larger_than_the_memory_is_refused_where_there_is_no_disk(tmp_path: Path) -> None:
    with service_program(tmp_path / "f", "--host-bytes", "16MiB", "--disk-bytes", "0") as service:
        store = client_of(service)
        held = [name_of(f"n/{number}", SIZE) for number in range(4)]  # of two pages of 2 MiB each: all that there is
        for template in held:
            write(store, template)
            assert store.pin(template)
        with pytest.raises(StoreFullError, match=r"a template of 4194304 bytes does not fit: 0 of 16777216 bytes"):
            store.create("n/more", SIZE)
        for template in held:
            assert reads_back(store, template)
        assert store.stats().evicted_templates == 0
        store.unpin(held[0])
        write(store, name_of("n/more", SIZE))  # in its place
        assert reads_back(store, name_of("n/more", SIZE))
        assert not store.holds(held[0])
        store.close()


def test_template_that_is_being_written_takes_its_room_from_others(tmp_path: Path) -> None:
    with service_program(tmp_path / "f", "--host-bytes", "16MiB", "--disk-bytes", "0") as service:
        store = client_of(service)
        first, second = name_of("n/first", TemplateSize(5, 1, 1_000_000)), name_of("n/second", TemplateSize(4, 1, 10))
        with store.create(first, size_of(first)) as writer:
            writer.put(0, 0, record_of(first, 0, 0))
            with pytest.raises(StoreFullError, match=r"a template of 8388608 bytes does not fit: 6291456 of 16777216"):
                store.create(second, size_of(second))
            for step in range(1, 5):
                writer.put(step, 0, record_of(first, step, 0))
            writer.commit(note=first.encode())
        assert reads_back(store, first)
        write(store, second)  # the first one is evicted for it
        assert reads_back(store, second)
        assert not store.holds(first)
        assert store.stats().evicted_templates == 1
        store.close()
