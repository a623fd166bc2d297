"""Templates for tests: every record's bytes follow from its key, so that a wrong one is seen."""

from __future__ import annotations

import hashlib

from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.record import Record, RecordKey, encode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.tier import ColdTier

SIZE = TemplateSize(steps=3, blocks=2, record_bytes=5000)
WRITING = Manifest("", SIZE, cost_ms=1.5, created=2.0).writing  # of `write_template`


def payload(key: RecordKey, num_bytes: int) -> bytes:
    """Bytes of a record that no other one has."""
    return hashlib.shake_128(str(key).encode()).digest(num_bytes)


def step_slab(template: str, size: TemplateSize, step: int) -> Slab:
    """A step as a writer would leave it, with rubbish between the records."""
    slab = Slab.private(size.step_bytes)
    slab.write(0, b"\xa5" * size.step_bytes)
    for block in range(size.blocks):
        key = RecordKey(template, step, block)
        record = Record("raw", "uint8", (size.record_bytes,), memoryview(payload(key, size.record_bytes)))
        slab.write(size.offset(block), encode_record(key, record))
    return slab


def write_template(tier: ColdTier, template: str, size: TemplateSize = SIZE, created: float = 2.0) -> Manifest:
    """Write and commit a template."""
    manifest = Manifest(template, size, cost_ms=1.5, created=created)
    for step in range(size.steps):
        tier.write_steps(template, size, [(step, step_slab(template, size, step))], manifest.writing)
    tier.commit(manifest)
    return manifest


def reads_back(tier: ColdTier, template: str, size: TemplateSize = SIZE, writing: str = WRITING) -> bool:
    """Whether all steps are there, exactly as `write_template` wrote them. False where one is lost."""
    for step in range(size.steps):
        slab, expected = Slab.private(size.step_bytes), step_slab(template, size, step)
        if not tier.read_step(template, size, step, slab, writing=writing):
            return False
        for block in range(size.blocks):
            where = size.offset(block), size.stored_record_bytes
            assert bytes(slab.read(*where)) == bytes(expected.read(*where))
    return True
