"""The store of a service: against the real one, over each kind of connection, and against one that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.errors import (
    CacheError,
    IncompleteTemplateError,
    ServiceError,
    StoreFullError,
)
from instgenie_cache.records.record import Record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.store import StoreStats
from instgenie_cache.wire.address import Address
from tests.cache.running_service import RunningService, running_service
from tests.cache.service_records import QUICK, SECRET, SIZE, assert_reads_back, record_of, wait_until, write

# Against the real service.


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    secrets = [{"name": SECRET.name, "secret": SECRET.secret.decode()}]
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, tcp="127.0.0.1:0", secrets=secrets, credit_bytes=1 << 16) as running:
        yield running


@pytest.fixture(params=["mapped", "streamed", "tcp"])
def store(service: RunningService, request: pytest.FixtureRequest) -> Iterator[ServiceStore]:
    unix, tcp = service.addresses
    address = tcp if request.param == "tcp" else unix
    arena: Any = "read" if request.param == "mapped" else "none"
    store = ServiceStore.connect(address, client="test", arena=arena, secret=SECRET, settings=QUICK)
    assert (store.arena is not None) == (request.param == "mapped")
    yield store
    for name in ("a", "b", "large"):
        store.delete(name)
    store.close()
    assert not store.is_connected


def test_template_is_written_and_read(store: ServiceStore) -> None:
    assert not store.holds("a")
    assert store.lease("a") is None
    write(store, "a")
    assert store.holds("a")
    assert store.num_bytes("a") == SIZE.num_bytes
    assert_reads_back(store, "a")
    lease = store.lease("a")
    assert lease is not None
    assert lease.tier == "host"
    assert lease.is_valid
    assert lease.step(SIZE.steps) is None
    assert lease.step(-1) is None
    lease.release()
    lease.release()
    assert not lease.is_valid
    with pytest.raises(CacheError, match="released before"):
        lease.step(0)
    store.flush()
    store.delete("a")
    assert store.lease("a") is None
    assert store.misses_unreachable == 0


def test_template_of_many_pages_and_more_bytes_than_credit(store: ServiceStore) -> None:
    size = TemplateSize(steps=2, blocks=5, record_bytes=1_000_001)
    write(store, "large", size)
    assert_reads_back(store, "large", size)


def test_steps_in_any_order_and_again(store: ServiceStore) -> None:
    write(store, "a")
    with store.lease("a") as lease:  # type: ignore[union-attr]
        lease.prefetch([3, 1, 0, 99])
        for step in (3, 1, 0, 2, 2, 0, 3):
            assert lease.step(step) == [record_of("a", step, block) for block in range(SIZE.blocks)]


def test_template_that_lacks_records_is_refused(store: ServiceStore) -> None:
    writer = store.create("a", SIZE)
    writer.put(0, 0, record_of("a", 0, 0))
    with pytest.raises(IncompleteTemplateError):
        writer.commit()
    with pytest.raises(CacheError, match="committed or aborted before"):
        writer.put(0, 1, record_of("a", 0, 1))
    assert not store.holds("a")


def test_record_that_was_not_announced(store: ServiceStore) -> None:
    with pytest.raises(CacheError, match="step 4, block 0 of a template of 4 x 3 records"):
        store.create("a", SIZE).put(4, 0, record_of("a", 0, 0))
    with pytest.raises(CacheError, match="a record of 999 bytes, 1000 were announced"):
        store.create("a", SIZE).put(0, 0, Record("raw", "uint8", (999,), memoryview(bytes(999))))


def test_template_that_cannot_fit_is_refused(store: ServiceStore) -> None:
    with pytest.raises(StoreFullError):
        store.create("large", TemplateSize(1, 1, 1 << 30))


def test_pins_and_counts(store: ServiceStore) -> None:
    assert not store.pin("a")
    write(store, "a")
    assert store.pin("a")
    before = store.stats()
    assert_reads_back(store, "a")
    assert store.lease("b") is None
    after = store.stats()
    assert (after.templates, after.hits, after.misses) == (before.templates, before.hits + 1, before.misses + 1)
    store.unpin("a")
    store.unpin("unknown")


def test_many_threads_share_a_store(store: ServiceStore) -> None:
    names = [f"shared{n}" for n in range(6)]

    def work(name: str) -> None:
        write(store, name)
        for _ in range(5):
            assert_reads_back(store, name)

    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(work, names))
    for name in names:
        store.delete(name)


def test_put_that_waits_for_room_gets_what_the_same_process_releases(tmp_path: Path) -> None:
    page = TemplateSize(steps=1, blocks=1, record_bytes=1_500_000)
    with running_service(tmp_path, host_bytes=2 << 20, disk_bytes=64 << 20) as service:
        store = ServiceStore.connect(service.addresses[0], client="test", settings=QUICK)
        write(store, "a", page)
        store.flush()
        lease = store.lease("a")
        assert lease is not None
        assert lease.step(0) is not None  # all memory is in use now
        writer = store.create("b", page)
        writer.put(0, 0, record_of("b", 0, 0, page))  # is sent
        began = time.monotonic()
        assert store.stats().templates == 1
        lease.release()
        writer.commit()
        assert time.monotonic() - began < 5
        assert_reads_back(store, "b", page)
        store.close()


def test_metrics_are_the_services_own(store: ServiceStore) -> None:
    assert b"instgenie_cache_" in store.metrics()


def test_service_that_comes_later(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "cache.sock"))
    store = ServiceStore.open(address, client="test", settings=QUICK)
    assert not store.is_connected
    with running_service(tmp_path):
        wait_until(lambda: store.is_connected)
        write(store, "a")
        lease = store.lease("a")
        assert lease is not None
        assert lease.step(0) is not None
    wait_until(lambda: not store.is_connected)
    assert not lease.is_valid
    with pytest.raises(ServiceError, match="lost with the connection"):
        lease.step(0)
    lease.release()
    with running_service(tmp_path):
        wait_until(lambda: store.is_connected)
        assert not store.holds("a")
    store.close()


# While there is no service.


@pytest.fixture
def unreachable(tmp_path: Path) -> Iterator[ServiceStore]:
    store = ServiceStore.open(Address(path=str(tmp_path / "none")), client="test", settings=QUICK)
    yield store
    store.close()


def test_every_call_is_a_miss_at_once_and_counted(unreachable: ServiceStore) -> None:
    assert unreachable.lease("a") is None
    assert not unreachable.holds("a")
    assert unreachable.num_bytes("a") is None
    assert not unreachable.pin("a")
    unreachable.unpin("a")
    unreachable.prefetch("a")
    unreachable.delete("a")
    unreachable.flush()
    with pytest.raises(ServiceError, match="no connection to the cache service"):
        unreachable.create("a", SIZE)
    assert unreachable.misses_unreachable == 8
    assert unreachable.stats() == StoreStats(0, 0, 0, hits=0, misses=1, evicted_templates=0)
    assert unreachable.arena is None


def test_closed_store_misses_too(unreachable: ServiceStore) -> None:
    unreachable.close()
    assert unreachable.lease("a") is None
    unreachable.close()


def test_connect_says_why_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"no cache service at unix:.*/none"):
        ServiceStore.connect(Address(path=str(tmp_path / "none")), client="test", settings=QUICK)
