"""How large a template is, and where its records lie within the memory of a step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from instgenie_cache.errors import CacheError, IncompleteTemplateError
from instgenie_cache.records.record import HEADER_BYTES

_ALIGNMENT = 256  # of records in a step's memory, so of payloads too: a header has as many bytes


@dataclass(frozen=True, slots=True)
class TemplateSize:
    """What a writer announces before its first record: `steps` x `blocks` records of `record_bytes` payload each.

    A template that is committed may have fewer steps than were announced.
    """

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

    def of_steps(self, steps: int | None) -> TemplateSize:
        """The size of a template that has the first `steps` steps of this one alone; None is all of them.

        Raises:
            CacheError: there is no such number of steps in it.
        """
        if steps is None:
            return self
        if type(steps) is not int or not 1 <= steps <= self.steps:
            raise CacheError(f"{steps!r} steps of a template of {self.steps}")
        return replace(self, steps=steps)

    def check_whole(self, put: Collection[int]) -> None:
        """Raise where what was put is not the template.

        Args:
            put: the step of each record.

        Raises:
            IncompleteTemplateError: records of its steps are not there.
            CacheError: there are records of other steps.
        """
        beyond = [step for step in put if step >= self.steps]
        if beyond:
            raise CacheError(f"a record of step {max(beyond)} was put, the template is to have {self.steps} steps")
        if len(put) < self.records:
            raise IncompleteTemplateError(f"{len(put)} of {self.records} records were put")

    def has(self, step: int, block: int) -> bool:
        """Whether the template has such a record."""
        return 0 <= step < self.steps and 0 <= block < self.blocks

    def has_blocks(self, step: int, first: int, stop: int) -> bool:
        """Whether the template has such a step, and blocks first..stop-1 are some of its own, or none at all."""
        return 0 <= step < self.steps and 0 <= first <= stop <= self.blocks
