"""The disk tier: what is damaged is found, what is full is refused, and a killed writer leaves no half template."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from instgenie_cache import CacheError, ChecksumError, IncompleteTemplateError, RecordFormatError, StoreFullError
from instgenie_cache.records.manifest import MAX_NOTE_BYTES, Manifest
from instgenie_cache.records.record import HEADER_BYTES, RecordKey
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.disk_env import DiskEnv
from instgenie_cache.tiers.disk_keys import record_key
from instgenie_cache.tiers.disk_tier import DiskTier, SyncPolicy
from instgenie_cache.tiers.unsynced import UnsyncedMark
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.templates import SIZE, reads_back, step_slab, write_template

BUDGET_BYTES = 64 << 20
LARGE = TemplateSize(steps=4, blocks=4, record_bytes=500_000)  # 8 MB


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[DiskTier]:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    yield tier
    tier.close()


def change_value(folder: Path, database: bytes, key: bytes, change: Callable[[bytearray], object]) -> None:
    """Change a stored value behind the tier's back; it must be closed."""
    with lmdb.open(str(folder), max_dbs=2) as env:
        db = env.open_db(database)
        with env.begin(write=True, db=db) as txn:
            value = bytearray(bytes(txn.get(key) or b""))
            change(value)
            txn.put(key, bytes(value))


def flip(position: int) -> Callable[[bytearray], object]:
    def change(value: bytearray) -> None:
        value[position] ^= 0x10

    return change


def run_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that has `DiskTier`, `write_template`, ..., and `sys`; prints go to its stdout."""
    preamble = """
        import sys
        from instgenie_cache import StoreFullError
        from instgenie_cache.tiers.disk_tier import DiskTier
        from instgenie_cache.records.template_size import TemplateSize
        from tests.cache.templates import SIZE, reads_back, step_slab, write_template
    """
    root = Path(__file__).parents[3]
    source = textwrap.dedent(preamble) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'cache'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Books


def test_used_bytes_count_steps_as_they_come_and_go(tier: DiskTier) -> None:
    assert tier.used_bytes == 0
    tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    assert tier.used_bytes == tier.footprint_bytes(SIZE) // SIZE.steps
    tier.delete("a")
    assert tier.used_bytes == 0
    write_template(tier, "a")
    assert tier.used_bytes == tier.footprint_bytes(SIZE)


@pytest.mark.parametrize("record_bytes", [0, 500, 1600, 1700, 3500, 3840, 40_000])
def test_the_file_holds_no_more_than_the_books_say(tier: DiskTier, record_bytes: int) -> None:
    size = TemplateSize(steps=20, blocks=20, record_bytes=record_bytes)
    empty = tier.fill()
    write_template(tier, "b", size)
    write_template(tier, "a", size)  # before the other, so that pages are split
    fill = tier.fill()
    taken = (fill.file_bytes - fill.free_bytes) - (empty.file_bytes - empty.free_bytes)
    assert taken <= tier.used_bytes + (64 << 10)


def test_the_books_are_the_same_after_opening_anew(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a", LARGE)
    used_bytes = tier.used_bytes
    tier.close()
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    assert tier.used_bytes == used_bytes
    tier.close()


def test_freed_pages_are_used_again(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, 4 * LARGE.stored_bytes)
    for round_number in range(15):
        write_template(tier, str(round_number), LARGE)
        tier.delete(str(round_number - 2))
    assert tier.fill().file_bytes < 8 * LARGE.stored_bytes
    tier.close()


def test_a_template_beyond_the_budget_is_refused_and_dropped(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, int(1.5 * LARGE.stored_bytes))
    write_template(tier, "a", LARGE)
    with pytest.raises(StoreFullError, match="do not fit"):
        write_template(tier, "b", LARGE)
    assert tier.used_bytes == tier.footprint_bytes(LARGE)
    assert reads_back(tier, "a", LARGE)
    tier.close()
    assert verify_folder(tmp_path).half_templates == 0


def test_a_commit_without_all_steps_is_refused(tier: DiskTier) -> None:
    tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    with pytest.raises(IncompleteTemplateError, match="1 of 3"):
        tier.commit(Manifest("a", SIZE, 0.0, 0.0))
    assert tier.used_bytes == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_a_commit_of_other_steps_than_were_written_is_refused(tier: DiskTier, steps: int) -> None:
    tier.write_steps("a", SIZE, [(step, step_slab("a", SIZE, step)) for step in (0, 1)])
    with pytest.raises(IncompleteTemplateError, match=f"2 of {steps}"):
        tier.commit(Manifest("a", replace(SIZE, steps=steps), 0.0, 0.0))
    assert tier.used_bytes == 0


def test_steps_that_are_written_when_it_is_known_that_there_are_fewer(tier: DiskTier) -> None:
    fewer = replace(SIZE, steps=2)
    tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    tier.write_steps("a", fewer, [(1, step_slab("a", SIZE, 1))])
    tier.commit(Manifest("a", fewer, 0.0, 0.0))
    assert reads_back(tier, "a", fewer)
    assert tier.used_bytes == tier.footprint_bytes(fewer)


def test_a_note_counts_and_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, 0)
    budget_bytes = tier.footprint_bytes(SIZE, 1)
    tier.close()
    tier = DiskTier.open(tmp_path, budget_bytes)
    slabs = [(step, step_slab("a", SIZE, step)) for step in range(SIZE.steps)]
    tier.write_steps("a", SIZE, slabs)
    with pytest.raises(StoreFullError, match="a note of a in 12288 bytes does not fit"):
        tier.commit(Manifest("a", SIZE, 0.0, 0.0, bytes(4097)))  # longer than stores allow
    assert tier.used_bytes == 0
    tier.write_steps("a", SIZE, slabs)
    tier.commit(Manifest("a", SIZE, 0.0, 0.0, bytes(MAX_NOTE_BYTES)))
    assert tier.used_bytes == budget_bytes
    tier.close()
    tier = DiskTier.open(tmp_path, budget_bytes)
    assert tier.used_bytes == budget_bytes
    tier.delete("a")
    assert tier.used_bytes == 0
    tier.close()


@pytest.mark.parametrize("note_bytes", [1, 1500, 2000, 4000, MAX_NOTE_BYTES])
def test_the_file_holds_no_more_than_the_books_say_of_templates_with_notes(tier: DiskTier, note_bytes: int) -> None:
    size = TemplateSize(steps=1, blocks=1, record_bytes=1)
    empty = tier.fill()
    for number in range(100):
        template = f"{number:03}" + "x" * 137
        tier.write_steps(template, size, [(0, step_slab(template, size, 0))])
        tier.commit(Manifest(template, size, 0.0, 0.0, bytes(note_bytes)))
    fill = tier.fill()
    taken = (fill.file_bytes - fill.free_bytes) - (empty.file_bytes - empty.free_bytes)
    assert taken <= tier.used_bytes + (64 << 10)


def test_a_committed_template_is_not_written_over(tier: DiskTier) -> None:
    write_template(tier, "a")
    with pytest.raises(CacheError, match="committed"):
        tier.write_steps("a", SIZE, [(0, step_slab("a", SIZE, 0))])
    assert reads_back(tier, "a")


# Damage


@pytest.mark.parametrize("position", [20, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 4999])
def test_a_flipped_bit_in_a_record_is_found(tmp_path: Path, position: int) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    tier.close()
    change_value(tmp_path, b"records", record_key(RecordKey("a", 1, 1)), flip(position))
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    with pytest.raises(ChecksumError, match="step 1, block 1"):
        tier.read_step("a", SIZE, 1, Slab.private(SIZE.step_bytes))
    assert tier.read_step("a", SIZE, 0, Slab.private(SIZE.step_bytes))
    tier.close()


def test_a_record_that_is_cut_or_misfiled_is_found(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    foreign = bytes(step_slab("b", SIZE, 0).read(0, SIZE.stored_record_bytes))
    tier.close()
    change_value(tmp_path, b"records", record_key(RecordKey("a", 0, 0)), lambda value: value.pop())
    change_value(tmp_path, b"records", record_key(RecordKey("a", 1, 0)), lambda value: value.__init__(foreign))  # type: ignore[misc]
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    with pytest.raises(RecordFormatError, match="bytes, expected"):
        tier.read_step("a", SIZE, 0, Slab.private(SIZE.step_bytes))
    with pytest.raises(RecordFormatError, match="got one of b"):
        tier.read_step("a", SIZE, 1, Slab.private(SIZE.step_bytes))
    tier.close()


@pytest.mark.parametrize("position", [0, 6, 12, 20])
def test_a_template_with_a_broken_manifest_is_dropped(tmp_path: Path, position: int) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    kept = write_template(tier, "b")
    tier.close()
    change_value(tmp_path, b"manifests", b"a", flip(position))
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    assert list(tier.manifests()) == [kept]
    assert tier.used_bytes == tier.footprint_bytes(SIZE)
    assert not tier.read_step("a", SIZE, 0, Slab.private(SIZE.step_bytes))
    tier.close()


@pytest.mark.parametrize("content", [b"x", b"garbage" * 10_000, bytes(65536)])
def test_a_file_of_garbage_is_set_aside(tmp_path: Path, content: bytes) -> None:
    for _ in range(2):  # of those set aside one is kept
        (tmp_path / "data.mdb").write_bytes(content)
        tier = DiskTier.open(tmp_path, BUDGET_BYTES)
        write_template(tier, "a")
        assert reads_back(tier, "a")
        tier.close()
    [aside] = tmp_path.glob("data.mdb.broken-*")
    assert aside.read_bytes() == content


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_truncated_file_costs_templates_and_nothing_else(tmp_path: Path, keep: float) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    for name in "abcdef":
        write_template(tier, name)
    tier.close()
    data = tmp_path / "data.mdb"
    with data.open("r+b") as file:
        file.truncate(int(keep * data.stat().st_size))
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    assert all(reads_back(tier, manifest.template) for manifest in tier.manifests())
    write_template(tier, "new")
    assert reads_back(tier, "new")
    tier.close()


@pytest.mark.parametrize("sync", ["interval", "never"])
def test_unsynced_writes_before_a_restart_of_the_machine_cost_the_tier(tmp_path: Path, sync: SyncPolicy) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, sync)
    write_template(tier, "a")
    tier.close()
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, sync)
    assert reads_back(tier, "a")  # closed in order
    tier.close()
    UnsyncedMark(tmp_path, "another boot").set()
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, sync)
    assert list(tier.manifests()) == []
    tier.close()


def test_an_owner_that_was_killed_leaves_the_mark_to_the_next_which_syncs(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    tier.close()
    UnsyncedMark(tmp_path).set()
    tier = DiskTier.open(tmp_path, BUDGET_BYTES)
    assert reads_back(tier, "a")
    assert not UnsyncedMark(tmp_path).is_set
    tier.close()


def test_an_empty_mark_of_this_boot_costs_nothing(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, "interval")
    write_template(tier, "a")
    tier.close()
    (tmp_path / "unsynced").write_bytes(b"")
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, "interval")
    assert reads_back(tier, "a")
    tier.close()


def test_a_mark_without_a_file_is_no_hindrance(tmp_path: Path) -> None:
    UnsyncedMark(tmp_path, "another boot").set()
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, "interval")
    write_template(tier, "a")
    tier.close()
    tier.close()


def test_after_sync_a_restart_costs_nothing(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, BUDGET_BYTES, "interval")
    write_template(tier, "a")
    assert (tmp_path / "unsynced").exists()
    tier.sync()
    assert not (tmp_path / "unsynced").exists()
    tier.close()


# Owners and threads


def test_a_second_owner_is_refused(tier: DiskTier, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=str(tmp_path)):
        DiskTier.open(tmp_path, BUDGET_BYTES)
    write_template(tier, "a")
    assert reads_back(tier, "a")


def test_threads_read_while_another_writes_and_the_map_grows(tmp_path: Path) -> None:
    tier = DiskTier.open(tmp_path, 512 << 20)
    write_template(tier, "a", LARGE)
    map_bytes = tier.fill().map_bytes
    is_done = threading.Event()
    reads: list[int] = []
    failures: list[BaseException] = []

    def read() -> None:
        count = 0
        try:
            while not is_done.is_set() or count == 0:
                assert reads_back(tier, "a", LARGE)
                count += 1
        except BaseException as error:  # noqa: BLE001 - told of by the test's own thread
            failures.append(error)
        reads.append(count)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(8):
        write_template(tier, f"b{number}", LARGE)
    is_done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert min(reads) > 0
    assert tier.fill().map_bytes > map_bytes
    tier.close()


# No room


def test_a_map_at_its_ceiling_refuses_and_can_be_emptied(tmp_path: Path) -> None:
    env = DiskEnv(tmp_path, 2 << 20)
    value = bytes(100_000)

    def put(first: int) -> None:
        env.write(lambda txn: [txn.put(b"%06d" % (first + i), value, db=env.records) for i in range(5)])

    written = 0

    def put_until_full() -> None:
        nonlocal written
        while True:
            put(written)
            written += 5

    with pytest.raises(StoreFullError, match="ceiling"):
        put_until_full()
    assert 10 <= written <= 20
    with env.read() as txn:
        assert bytes(txn.get(b"000000", db=env.records) or b"") == value
        assert txn.get(b"%06d" % written, db=env.records) is None
    for first in range(0, written, 5):  # what is deleted can be used by the very next write
        env.write(lambda txn, first=first: [txn.delete(b"%06d" % (first + i), db=env.records) for i in range(5)])  # type: ignore[misc]
    put(0)
    assert env.fill().map_bytes <= 20 << 20
    env.close()


FILL = """
    tier = DiskTier.open(sys.argv[1], 1 << 30)
    large = TemplateSize(steps=4, blocks=4, record_bytes=500_000)
    write_template(tier, "kept", large)
    try:
        for number in range(100):
            write_template(tier, f"t{number}", large)
    except StoreFullError as error:
        print(error)
    assert number < 99
    assert tier.manifest(f"t{number}") is None
    for name in ["kept", *(f"t{n}" for n in range(number))]:
        assert reads_back(tier, name, large)
    assert tier.used_bytes == (number + 1) * tier.footprint_bytes(large)
    if number:
        tier.delete("t0")
    tier.delete("kept")
    write_template(tier, "next", TemplateSize(1, 4, 500_000))
    tier.sweep()
    tier.close()
    print("done")
"""


def test_a_file_that_must_not_grow_is_a_full_store(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))\n"
    child = run_child(limit + textwrap.dedent(FILL), str(tmp_path))
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert str(tmp_path) in output
    assert output.endswith("done\n")
    report = verify_folder(tmp_path)
    assert report.ok
    assert report.half_templates == 0


def test_a_full_disk_is_a_full_store(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        child = run_child(FILL, str(tmp_path))
        output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert f"no room in {tmp_path}" in output
        assert output.endswith("done\n")
        assert verify_folder(tmp_path).ok
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# Kills

WRITE_FOR_EVER = """
    tier = DiskTier.open(sys.argv[1], 1 << 30)
    for number in range(100000):
        name = f"{sys.argv[2]}-{number}"
        write_template(tier, name, TemplateSize(3, 5, 60_000))
        print(name, flush=True)
        if number >= 5:
            tier.delete(f"{sys.argv[2]}-{number - 5}")
"""


@pytest.mark.parametrize("sync", ["commit", "never"])
def test_a_killed_writer_leaves_whole_templates_alone(tmp_path: Path, sync: SyncPolicy) -> None:
    size = TemplateSize(3, 5, 60_000)
    for round_number in range(5):
        child = run_child(WRITE_FOR_EVER.replace("1 << 30", f'1 << 30, "{sync}"'), str(tmp_path), str(round_number))
        assert child.stdout is not None
        for _ in range(3 + round_number):
            last = child.stdout.readline().strip()
        time.sleep(0.003 * round_number)  # so that it is hit elsewhere in its writing
        child.kill()
        last = (child.stdout.read().splitlines() or [last])[-1]  # it may have gone on a while
        child.communicate()
        tier = DiskTier.open(tmp_path, 1 << 30, sync)
        names = [manifest.template for manifest in tier.manifests()]
        assert last in names
        assert all(reads_back(tier, name, size) for name in names)
        assert tier.sweep() == 0
        for name in names:
            tier.delete(name)
        tier.close()
        assert verify_folder(tmp_path).ok
