"""The store that a server's settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from instgenie_cache import CacheError, Record, RecordStore, TemplateSize
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.tiers.verify import verify_folder
from instgenie_cache.wire.address import Address
from instgenie_server.record_cache.store import open_record_store, secret_of, service_address
from instgenie_server.settings import CacheSettings
from tests.server.record_cache.services import running_service

SIZE = TemplateSize(steps=1, blocks=1, record_bytes=4)
HOST_BYTES = 8 << 20


def written(store: RecordStore, template: str) -> bool:
    """Write a template; whether it is there then."""
    with store.create(template, SIZE) as writer:
        writer.put(0, 0, Record("raw", "uint8", (4,), memoryview(b"abcd")))
        writer.commit()
    return store.holds(template)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"folder": "/r", "service": "own"}, Address(path="/r/cache.sock")),
        ({"folder": None, "service": "own"}, None),
        ({"folder": "/r", "service": None}, None),
        ({"folder": None, "service": "unix:/elsewhere"}, Address(path="/elsewhere")),
    ],
)
def test_where_the_service_is(settings: dict[str, str | None], expected: Address | None) -> None:
    assert service_address(CacheSettings.model_validate(settings)) == expected


def test_a_service_at_a_port_gets_the_secret() -> None:
    settings = CacheSettings.model_validate(
        {"service": "tcp://cache.example:7", "secret_name": "edits", "secret": "0123456789abcdef"}
    )
    assert service_address(settings) == Address(host="cache.example", port=7)
    secret = secret_of(settings)
    assert secret is not None
    assert (secret.name, secret.secret) == ("edits", b"0123456789abcdef")
    assert secret_of(CacheSettings()) is None


async def test_in_memory_alone(tmp_path: Path) -> None:
    settings = CacheSettings(folder=tmp_path, service=None, host_bytes=HOST_BYTES)
    async with open_record_store(settings) as store:
        assert not isinstance(store, ServiceStore)
        assert written(store, "a")
    with pytest.raises(CacheError, match="holds no cache"):
        verify_folder(tmp_path)


async def test_half_of_the_free_memory_is_for_records() -> None:
    async with open_record_store(CacheSettings(service=None), free_bytes=lambda: 2 * HOST_BYTES) as store:
        assert store.stats().budget_bytes == HOST_BYTES


async def test_a_service_of_its_own_keeps_records(tmp_path: Path) -> None:
    settings = CacheSettings(folder=tmp_path, host_bytes=0, disk_bytes=64 << 20)
    async with open_record_store(settings) as store:
        assert isinstance(store, ServiceStore)
        assert written(store, "a")
    async with open_record_store(settings) as store:
        assert store.holds("a")
    assert not (tmp_path / "cache.sock").exists()


async def test_without_a_service_of_its_own_it_is_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = CacheSettings(folder=tmp_path / "file" / "records", host_bytes=HOST_BYTES)
    with capture_logs() as logged:
        async with open_record_store(settings) as store:
            assert not isinstance(store, ServiceStore)
            assert written(store, "a")
    assert any("kept in memory alone" in line["event"] for line in logged)


async def test_a_service_that_cannot_be_reached_is_a_miss(tmp_path: Path) -> None:
    settings = CacheSettings(service=f"unix:{tmp_path}/cache.sock")
    with capture_logs() as logged:
        async with open_record_store(settings) as store:
            assert store.lease("a") is None
    assert any("cannot be reached" in line["event"] for line in logged)


async def test_a_service_of_somebody_else(tmp_path: Path) -> None:
    settings = CacheSettings(service=f"unix:{tmp_path}/cache.sock")
    async with running_service(tmp_path), open_record_store(settings) as store:
        assert isinstance(store, ServiceStore)
        assert store.is_connected
