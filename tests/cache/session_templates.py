"""Templates to write through a session."""

from __future__ import annotations

from instgenie_cache import TemplateSize
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.wire.messages import (
    Commit,
    Create,
    Put,
)
from tests.cache.session_driver import Driver, record_bytes
from tests.cache.small_stores import RECORD_BYTES

SIZE = TemplateSize(steps=2, blocks=2, record_bytes=RECORD_BYTES)
ONE = TemplateSize(steps=1, blocks=1, record_bytes=RECORD_BYTES)


def create(template: str, size: TemplateSize = SIZE) -> Create:
    return Create(template=template, steps=size.steps, blocks=size.blocks, record_bytes=size.record_bytes)


async def write(client: Driver, template: str, size: TemplateSize = SIZE, first: int = 0) -> None:
    """Write a template as `fill_template` does."""
    writer = (await client.ask(create(template, size)))[0]["writer"]
    for step in range(size.steps):
        for block in range(size.blocks):
            payload = record_bytes(template, step, block, first + step * size.blocks + block, size.record_bytes)
            assert "error" not in (await client.ask(Put(writer=writer, step=step, block=block), payload))[0]
    header, _ = await client.ask(Commit(writer=writer, cost_ms=1.0))
    assert "error" not in header, header


def values(template: str, size: TemplateSize, step: int, memory: bytes) -> list[int]:
    """What a step's records are full of."""
    found: list[int] = []
    for block in range(size.blocks):
        data = memory[size.offset(block) : size.offset(block) + size.stored_record_bytes]
        found += set(decode_record(data, RecordKey(template, step, block)).payload)
    return found
