"""How fast the activation cache is, against what the machine does at best: copying memory, and plain files.

A cache service runs as a process of its own; its clients are this process and, where there are several, others. Every
figure is set against a plain one that was taken just before or after it in the same round, so that a busy machine hits
both alike; ratios are taken within a round, and their median over the rounds is what is told.

    python scripts/bench/cache.py [--rounds 7] [--folder FOLDER] [--json OUT]

Cold reads want the page cache dropped, which takes root; without, they are left out, and the table says so. --folder is
where the records go: a folder of that disk which is to be measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.environment import environment
from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.records.record import Record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import Fetch, Lease, Release

MIB = 1 << 20
RECORD_BYTES = (1 * MIB, 4 * MIB, 32 * MIB)
CLIENTS = (1, 2, 4)
STREAM = TemplateSize(16, 8, 1 * MIB)  # 128 MiB, records about as long as the embedded model's
ROUND_TRIPS = 1000
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure and what it is compared with.

    Attributes:
        value, plain: medians over the rounds, in `unit`.
        ratio: median of the rounds' ratios, None where nothing is compared.
        target: what the ratio should reach or, where there is none, what the value should stay below.
    """

    name: str
    unit: str
    value: float
    plain: float | None
    ratio: float | None
    target: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached, None where there is none."""
        if self.target is None:
            return None
        return self.value < self.target if self.ratio is None else self.ratio >= self.target


def seconds_of(work: Callable[[], object]) -> float:
    """How long the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compared(name: str, num_bytes: int, rounds: list[tuple[float, float]], target: float | None) -> Row:
    """A row of GB/s from (seconds, seconds of the plain way) of each round."""
    return Row(
        name,
        "GB/s",
        median(num_bytes / own / 1e9 for own, _ in rounds),
        median(num_bytes / plain / 1e9 for _, plain in rounds),
        median(plain / own for own, plain in rounds),
        target,
    )


@contextmanager
def running_service(folder: Path, host_bytes: int) -> Iterator[Address]:
    """A cache service in a process of its own."""
    command = [sys.executable, "-m", "instgenie_cache", "--folder", str(folder), "--host-bytes", str(host_bytes)]
    command += ["--disk-bytes", str(8 << 30), "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(command)} did not start")
        try:
            yield Address.parse(line.split()[-1])
        finally:
            process.terminate()


def write_template(store: ServiceStore | TieredStore, template: str, size: TemplateSize, payload: Bytes) -> None:
    """Put every record of a template, and wait until it is on disk."""
    record = Record("raw", "uint8", (size.record_bytes,), memoryview(payload[: size.record_bytes]))  # type: ignore[arg-type]
    with store.create(template, size) as writer:
        for step in range(size.steps):
            for block in range(size.blocks):
                writer.put(step, block, record)
        writer.commit(cost_ms=1000.0)
    store.flush()


def warm_reads(address: Address, payload: Bytes, rounds: int) -> list[Row]:
    """Records of the host tier copied out of the mapped arena, against a copy between two arrays of this process."""
    rows = []
    store = ServiceStore.connect(address, client="bench", arena="read")
    for record_bytes in RECORD_BYTES:
        size = TemplateSize(1, max(1, 32 * MIB // record_bytes), record_bytes)
        template = f"warm-{record_bytes}"
        write_template(store, template, size, payload)
        source = [payload[:record_bytes].copy() for _ in range(size.blocks)]
        target = np.zeros(record_bytes, np.uint8)
        measured = []
        for _ in range(rounds + 1):
            lease = store.lease(template)
            assert lease is not None
            records = lease.step(0)
            assert records is not None
            arrays = [np.frombuffer(record.payload, np.uint8) for record in records]
            measured.append(
                (
                    seconds_of(partial(_copy_all, arrays, target)),
                    seconds_of(partial(_copy_all, source, target)),
                )
            )
            lease.release()
        rows.append(
            compared(f"warm record of {record_bytes // MIB} MiB, copied out", size.num_bytes, measured[1:], 0.8)
        )
    store.close()
    return rows


def _copy_all(sources: list[Bytes], target: Bytes) -> None:
    for source in sources:
        np.copyto(target, source)


def round_trips(address: Address) -> Row:
    """Median time that the asynchronous client waits for a lease; each is used and released before the next."""

    async def measure() -> float:
        client = await CacheClient.connect(address, client="bench", arena="read")
        times = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            leased, _ = await client.request(Lease(template=f"warm-{RECORD_BYTES[0]}"))
            times.append(time.perf_counter() - started)
            await client.request(Fetch(lease=leased.lease, step=0))
            await client.request(Release(lease=leased.lease))
        await client.close()
        return median(times)

    return Row("round trip of a lease", "us", 1e6 * uvloop.run(measure()), None, None, 200.0)


@contextmanager
def client_processes(address: Address, count: int) -> Iterator[Pool]:
    """Processes with a connection each."""
    with multiprocessing.get_context("spawn").Pool(count, _connect, (str(address),)) as pool:
        yield pool


_stores: list[ServiceStore] = []  # of a client process: its own


def _connect(address: str) -> None:
    _stores.append(ServiceStore.connect(Address.parse(address), client="bench", arena="read"))


def streams(address: Address, rounds: int) -> list[Row]:
    """A template of 128 MiB read from the host tier by several processes at a time, step by step, and copied out."""
    rows = []
    for clients in CLIENTS:
        with client_processes(address, clients) as pool:
            elapsed = [seconds_of(partial(pool.map, _read_stream, range(clients), 1)) for _ in range(rounds + 1)]
        rates = [clients * STREAM.num_bytes / seconds / 1e9 for seconds in elapsed[1:]]
        rows.append(Row(f"template read by {clients} clients, in all", "GB/s", median(rates), None, None, None))
    return rows


def _read_stream(_: int) -> None:
    lease = _stores[0].lease("stream")
    assert lease is not None
    target = np.zeros(STREAM.record_bytes, np.uint8)
    for step in range(STREAM.steps):
        records = lease.step(step)
        assert records is not None
        _copy_all([np.frombuffer(record.payload, np.uint8) for record in records], target)
    lease.release()


def writes(address: Address, folder: Path, payload: Bytes, rounds: int) -> list[Row]:
    """Put and commit by several processes until it is on disk, against one plain file of as many bytes and an fsync."""
    rows = []
    for clients in CLIENTS:
        measured = []
        with client_processes(address, clients) as pool:
            for number in range(rounds + 1):
                names = [f"w{number}-{client}" for client in range(clients)]
                own = seconds_of(partial(pool.map, _write_stream, names, 1))
                plain = seconds_of(partial(_write_plain, folder / "plain", clients * STREAM.records, payload))
                measured.append((own, plain))
                pool.map(_delete_stream, names, 1)
        target = 0.8 if clients == 1 else None
        name = f"put and commit by {clients} clients, in all"
        rows.append(compared(name, clients * STREAM.num_bytes, measured[1:], target))
    return rows


def _write_stream(name: str) -> None:
    write_template(_stores[0], name, STREAM, _payload())


def _delete_stream(name: str) -> None:
    _stores[0].delete(name)


@cache
def _payload() -> Bytes:
    """Bytes for records, the same in every process."""
    return np.random.default_rng(0).integers(0, 256, max(RECORD_BYTES), np.uint8)


def _write_plain(path: Path, records: int, payload: Bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(records):
            file.write(payload[: STREAM.record_bytes].data)
        os.fsync(file.fileno())


def cold_reads(folder: Path, payload: Bytes, rounds: int) -> list[Row]:
    """A template read from LMDB into the host tier, verified, against a plain file of as many bytes read in order."""
    if not os.access(DROP_CACHES, os.W_OK):
        return []
    plain = folder / "plain"
    _write_plain(plain, STREAM.records, payload)
    settings = StoreSettings(host_bytes=1 << 30, folder=folder / "cold", disk_bytes=8 << 30)
    store = build_store(settings)
    write_template(store, "stream", STREAM, payload)
    store.close()
    measured = []
    target = np.zeros(STREAM.num_bytes, np.uint8)
    for _ in range(rounds + 1):
        _drop_caches()
        read_plain = seconds_of(partial(_read_plain, plain, target))
        store = build_store(settings)
        _touch_arena(store, payload)
        _drop_caches()
        measured.append((seconds_of(partial(_read_all, store)), read_plain))
        store.close()
    return [compared("cold template from LMDB", STREAM.num_bytes, measured[1:], 0.85)]


def _touch_arena(store: TieredStore, payload: Bytes) -> None:
    """Have the system provide the arena's pages, which it does once in a service's life."""
    with store.create("touch", TemplateSize(STREAM.steps, STREAM.blocks, STREAM.record_bytes)) as writer:
        record = Record("raw", "uint8", (STREAM.record_bytes,), memoryview(payload[: STREAM.record_bytes]))  # type: ignore[arg-type]
        for step in range(STREAM.steps):
            for block in range(STREAM.blocks):
                writer.put(step, block, record)
    store.flush()


def _read_all(store: TieredStore) -> None:
    with store.lease("stream") as lease:  # type: ignore[union-attr]
        for step in range(STREAM.steps):
            assert lease.step(step) is not None


def _read_plain(path: Path, target: Bytes) -> None:
    with path.open("rb", buffering=0) as file:
        view, start = memoryview(target), 0  # type: ignore[arg-type]
        while start < target.nbytes:
            count = file.readinto(view[start : start + MIB])
            assert count
            start += count


def _drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where records go; a temporary folder where left out")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    payload = _payload()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="cache-bench-") as name:
        folder = Path(name)
        with running_service(folder / "service", 1 << 30) as address:
            rows = warm_reads(address, payload, options.rounds)
            rows.append(round_trips(address))
            with_stream = ServiceStore.connect(address, client="bench")
            write_template(with_stream, "stream", STREAM, payload)
            with_stream.close()
            rows += streams(address, options.rounds)
            rows += writes(address, folder, payload, options.rounds)
        shutil.rmtree(folder / "service")
        cold = cold_reads(folder, payload, options.rounds)
        rows += cold
    show(rows, "" if cold else f"cold reads were left out: {DROP_CACHES} cannot be written")
    if options.json:
        content: dict[str, Any] = {"rows": [{**asdict(row), "is_met": row.is_met} for row in rows]}
        options.json.write_text(
            json.dumps({"environment": environment(), "rounds": options.rounds, **content}, indent=1) + "\n"
        )


def show(rows: list[Row], note: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "cache", "plain", "ratio", "target")
    for row in rows:
        plain = "" if row.plain is None else f"{row.plain:.2f} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        sign = "<" if row.ratio is None else ">="
        target = "" if row.target is None else f"{sign} {row.target:g}{'' if row.is_met else ', missed'}"
        table.add_row(row.name, f"{row.value:.2f} {row.unit}", plain, ratio, target)
    console = Console(width=110) if not sys.stdout.isatty() else Console()
    console.print(table)
    if note:
        console.print(note)


if __name__ == "__main__":
    main()
