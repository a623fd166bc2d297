"""Templates to write through a cache service, and to compare with what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from instgenie_cache.client.service_link import LinkSettings
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.records.record import Record, RecordKey
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.wire.handshake import SharedSecret
from tests.cache.templates import payload

SIZE = TemplateSize(steps=4, blocks=3, record_bytes=1000)
QUICK = LinkSettings(
    deadline_seconds=10, step_seconds=10, retry_seconds=0.001, retry_max_seconds=0.02, retry_jitter_seconds=0.01
)
PATIENT = LinkSettings(connect_seconds=30, deadline_seconds=30, step_seconds=30, write_seconds=30)  # on a busy machine
SECRET = SharedSecret("tests", b"0123456789abcdef")

Result = TypeVar("Result")


def record_of(template: str, step: int, block: int, size: TemplateSize = SIZE) -> Record:
    data = payload(RecordKey(template, step, block), size.record_bytes)
    return Record("raw", "uint8", (len(data),), memoryview(data))


def write(store: ServiceStore, template: str, size: TemplateSize = SIZE) -> None:
    with store.create(template, size) as writer:
        for step in range(size.steps):
            for block in range(size.blocks):
                writer.put(step, block, record_of(template, step, block, size))
        writer.commit(5.0)


def assert_reads_back(store: ServiceStore, template: str, size: TemplateSize = SIZE) -> None:
    lease = store.lease(template)
    assert lease is not None
    with lease:
        for step in range(size.steps):
            records = lease.step(step)
            assert records is not None
            assert list(records) == [record_of(template, step, block, size) for block in range(size.blocks)]


def wait_until(condition: Callable[[], bool]) -> None:
    """For what another thread does soon; the test's time limit ends it."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)
