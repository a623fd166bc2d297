"""Every kind of `RecordStore`, in a folder. What was flushed is there when a lasting one is opened again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instgenie_cache import MemoryStore, RecordStore, TemplateSize
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_cache.wire.messages import ArenaUse
from tests.cache.running_service import running_service
from tests.cache.service_records import PATIENT
from tests.cache.small_stores import RECORD_BYTES, tiered_store

SIZE = TemplateSize(steps=2, blocks=2, record_bytes=RECORD_BYTES)
ROOM = 4  # templates of that size that a store holds
SECRET = SharedSecret("tests", b"0123456789abcdef")
DISK_PAGES = 64  # of memory in front of a disk


@contextmanager
def memory_store(_: Path) -> Iterator[RecordStore]:
    yield MemoryStore(ROOM * SIZE.num_bytes)


@contextmanager
def host_store(_: Path) -> Iterator[RecordStore]:
    yield tiered_store(pages=ROOM * SIZE.records)


@contextmanager
def disk_store(folder: Path) -> Iterator[RecordStore]:
    yield tiered_store(DiskTier.open(folder, disk_bytes(folder)), pages=DISK_PAGES)


@contextmanager
def mapped_store(folder: Path) -> Iterator[RecordStore]:
    with service_store(folder, "read") as store:
        yield store


@contextmanager
def streamed_store(folder: Path) -> Iterator[RecordStore]:
    with service_store(folder, "none") as store:
        yield store


@contextmanager
def tcp_store(folder: Path) -> Iterator[RecordStore]:
    with service_store(folder, "read", is_remote=True) as store:
        yield store


@contextmanager
def service_store(folder: Path, arena: ArenaUse, *, is_remote: bool = False) -> Iterator[ServiceStore]:
    secrets = [{"name": SECRET.name, "secret": SECRET.secret.decode()}]
    settings: dict[str, Any] = {"tcp": "127.0.0.1:0", "secrets": secrets} if is_remote else {}
    with running_service(folder, disk_bytes=disk_bytes(folder), **settings) as service:
        store = ServiceStore.connect(service.addresses[-1], client="test", arena=arena, secret=SECRET, settings=PATIENT)
        try:
            yield store
        finally:
            store.close()


def disk_bytes(folder: Path) -> int:
    """A budget for `ROOM` templates."""
    tier = DiskTier.open(folder, 0)
    try:
        return ROOM * tier.footprint_bytes(SIZE)
    finally:
        tier.close()


KINDS = [memory_store, host_store, disk_store, mapped_store, streamed_store, tcp_store]
LASTING_KINDS = KINDS[2:]
