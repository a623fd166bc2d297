"""Fifty clients of one service at a time find what a model says, and leave nothing behind."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from instgenie_cache import RecordStore
from instgenie_cache.client.service_link import LinkSettings
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.tiers.verify import verify_folder
from instgenie_cache.wire.handshake import SharedSecret
from tests.cache.processes.many_clients import TEMPLATES, Model, RandomClient
from tests.cache.processes.service_program import ServiceProgram, service_program

CLIENTS = 50
PATIENT = LinkSettings(deadline_seconds=60, step_seconds=60, write_seconds=60)
GROWTH_BYTES = 48 << 20
EVERYTHING = SharedSecret("everything", b"0123456789abcdef")
TENANT = SharedSecret("tenant", b"fedcba9876543210", "y")
CONFIG = """
tcp = "127.0.0.1:0"
log_level = "warning"
[[secrets]]
name = "everything"
secret = "0123456789abcdef"
[[secrets]]
name = "tenant"
secret = "fedcba9876543210"
namespace = "y"
"""


def ways_in(service: ServiceProgram) -> list[tuple[Callable[[], RecordStore], str | None]]:
    """How to connect, and the namespace to which one is bound then."""
    connect = partial(ServiceStore.connect, client="test", settings=PATIENT)
    return [
        (partial(connect, service.unix, arena="read"), None),
        (partial(connect, service.unix, arena="none"), None),
        (partial(connect, service.unix, namespace="x"), "x"),
        (partial(connect, service.tcp, secret=EVERYTHING), None),
        (partial(connect, service.tcp, secret=TENANT), "y"),
    ]


@pytest.mark.parametrize(
    ("operations", "disk_bytes"),
    [
        (40, "1200KiB"),  # fewer than the templates have
        pytest.param(200, "1200KiB", marks=pytest.mark.slow),
        pytest.param(200, "0", marks=pytest.mark.slow),
    ],
)
def test_fifty_clients_find_what_the_model_says(tmp_path: Path, operations: int, disk_bytes: str) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    sizes = ("--host-bytes", "96MiB", "--disk-bytes", disk_bytes)
    with service_program(tmp_path / "f", "--config", str(tmp_path / "config.toml"), *sizes) as service:
        ways = ways_in(service)
        model = Model()
        clients = [
            RandomClient(f"client {n}", *ways[n % len(ways)], model, random.Random(f"{operations} {disk_bytes} {n}"))
            for n in range(CLIENTS)
        ]
        private_bytes = service.private_bytes()
        with ThreadPoolExecutor(CLIENTS) as pool:
            counts = sum(pool.map(lambda client: client.work(operations), clients), Counter[str]())
        assert service.private_bytes() - private_bytes < GROWTH_BYTES

        check_what_is_left(service, model, counts)
        assert "Traceback" not in service.log_text()
        assert service.stop() == 0
        if disk_bytes != "0":
            assert verify_folder(service.folder).ok


def check_what_is_left(service: ServiceProgram, model: Model, counts: Counter[str]) -> None:
    """When all have left: what the model knows, no lease, no page in use, and the books are right."""
    figure = service.metric
    wait_until(lambda: figure("instgenie_cache_connections") == 1)  # the one that asks
    assert figure("instgenie_cache_unanswered_put_bytes") == 0

    store = ServiceStore.connect(service.unix, client="test", settings=PATIENT)
    last = RandomClient("last", lambda: store, None, model, random.Random(0))
    for known in model.templates.values():
        last._read(known)
    there = {name for name, known in model.templates.items() if known.versions}
    assert set(service.templates()) == there
    evicted = store.stats().evicted_templates
    # One that the disk refused, because all there is in use, stays in memory where it is whole, or is dropped.
    refused = figure("instgenie_cache_tier_failures_total")
    assert 0 < model.missing <= evicted + refused, (model.missing, evicted, refused)
    assert counts["refused, full"] < counts["_write"] / 2, counts

    store.flush()
    for name in TEMPLATES:
        store.delete(name)
    assert store.stats().used_bytes == 0
    store.close()
    wait_until(lambda: figure("instgenie_cache_host_used_bytes") == 0)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Ask again and again, for ten seconds."""
    until = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until, "it never was so"
