"""The cache service's metrics on the server's page."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from instgenie_cache.open_store import socket_of
from instgenie_cache.wire.address import Address
from instgenie_server.metrics import Metrics
from instgenie_server.record_cache import exposition
from instgenie_server.record_cache.exposition import MAX_AGE_SECONDS, ServiceExposition, own_families
from tests.server.manual_clock import ManualClock
from tests.server.record_cache.services import running_service


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine."""
    monkeypatch.setattr(exposition, "DEADLINE_SECONDS", 30.0)


def address_in(folder: Path) -> Address:
    return Address(path=str(socket_of(folder)))


def test_families_of_the_process_are_left_to_the_server() -> None:
    page = (
        b"# HELP process_cpu_seconds_total x\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1\n"
        b"# HELP instgenie_cache_misses_total y\n# TYPE instgenie_cache_misses_total counter\n"
        b"instgenie_cache_misses_total 2\n\n#\n"
    )
    kept = own_families(page)
    assert kept.count(b"\n") == 3
    assert b"process" not in kept
    assert kept.endswith(b"instgenie_cache_misses_total 2\n")


async def test_together_they_are_a_page_without_doubles(tmp_path: Path) -> None:
    asked = ServiceExposition(address_in(tmp_path))
    async with running_service(tmp_path):
        text = await asked.text()
        await asked.close()
    _, own = Metrics().exposition()
    names = [family.name for family in text_string_to_metric_families((own + text).decode())]
    assert len(set(names)) == len(names)
    assert {"instgenie_edits", "instgenie_cache_misses", "instgenie_cache_connections"} <= set(names)


async def test_it_comes_and_goes_with_the_service(tmp_path: Path) -> None:
    clock = ManualClock()
    asked = ServiceExposition(address_in(tmp_path), now=clock)
    assert await asked.text() == b""
    async with running_service(tmp_path):
        assert await asked.text() == b""  # asked a moment ago
        clock.now += 2 * MAX_AGE_SECONDS
        assert await asked.text() != b""
    assert await asked.text() != b""
    clock.now += 2 * MAX_AGE_SECONDS
    assert await asked.text() == b""
    await asked.close()
