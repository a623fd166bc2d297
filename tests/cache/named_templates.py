"""Templates whose names say how large they are, and whose bytes follow from their keys: whoever reads one knows."""

from __future__ import annotations

import re
from dataclasses import replace

from instgenie_cache import Record, RecordKey, RecordStore, TemplateSize
from tests.cache.templates import payload


def name_of(prefix: str, size: TemplateSize) -> str:
    """The name of a template of that size."""
    return f"{prefix}-{size.steps}x{size.blocks}x{size.record_bytes}"


def size_of(template: str) -> TemplateSize:
    """The size of a template of that name."""
    found = re.search(r"-(\d+)x(\d+)x(\d+)$", template)
    assert found is not None, template
    return TemplateSize(*map(int, found.groups()))


def record_of(template: str, step: int, block: int) -> Record:
    """What a template's record should be."""
    data = payload(RecordKey(template, step, block), size_of(template).record_bytes)
    return Record("raw", "uint8", (len(data),), memoryview(data))


def write(store: RecordStore, template: str, cost_ms: float = 1.0, *, spare_steps: int = 0) -> None:
    """Write and commit a template; so many steps more are announced than it has in the end."""
    size = size_of(template)
    with store.create(template, replace(size, steps=size.steps + spare_steps)) as writer:
        for step in range(size.steps):
            for block in range(size.blocks):
                writer.put(step, block, record_of(template, step, block))
        writer.commit(cost_ms, steps=size.steps, note=template.encode())


def reads_back(store: RecordStore, template: str) -> bool:
    """Whether a template is there and whole; each byte is compared. False where it, or a step of it, is lost."""
    size = size_of(template)
    lease = store.lease(template)
    if lease is None:
        return False
    with lease:
        assert lease.note == template.encode()
        for step in range(size.steps):
            records = lease.step(step)
            if records is None:
                return False
            assert list(records) == [record_of(template, step, block) for block in range(size.blocks)], template
    return True
