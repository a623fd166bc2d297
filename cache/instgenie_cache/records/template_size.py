"""How large a template is, and where its records lie within the memory of a step."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie_cache.records.record import HEADER_BYTES

_ALIGNMENT = 256  # of records in a step's memory, so of payloads too: a header has as many bytes


@dataclass(frozen=True, slots=True)
class TemplateSize:
    """What a writer announces before its first record: `steps` x `blocks` records of `record_bytes` payload each."""

    steps: int
    blocks: int
    record_bytes: int

    @property
    def records(self) -> int:
        """How many records the template has."""
        return self.steps * self.blocks

    @property
    def num_bytes(self) -> int:
        """Payload of all records."""
        return self.records * self.record_bytes

    @property
    def stored_record_bytes(self) -> int:
        """A record with its header."""
        return HEADER_BYTES + self.record_bytes

    @property
    def stride_bytes(self) -> int:
        """From one record of a step to the next."""
        return -(-self.stored_record_bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def step_bytes(self) -> int:
        """Memory of a step: the records of its blocks, in block order, each at a multiple of 256 bytes."""
        return self.blocks * self.stride_bytes

    @property
    def stored_bytes(self) -> int:
        """Memory of all steps."""
        return self.steps * self.step_bytes

    def offset(self, block: int) -> int:
        """Where a block's record begins in the memory of its step."""
        return block * self.stride_bytes

    def has(self, step: int, block: int) -> bool:
        """Whether the template has such a record."""
        return 0 <= step < self.steps and 0 <= block < self.blocks
