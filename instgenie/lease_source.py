"""One step of a leased template, as the loader reads it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from instgenie.records import ForeignRecordError, RecordForm, payload_tensor
from instgenie_cache import Record, TemplateLease, TierName


class LeaseSource:
    """A `StepSource` of a lease, which outlives it.

    Attributes:
        tier: where the step was when the source was made.
        is_timed: whether reads show what the tier costs, or the store may have begun them before.
    """

    def __init__(
        self,
        lease: TemplateLease,
        step: int,
        form: RecordForm,
        tier: TierName,
        *,
        by_blocks: bool,
        is_timed: bool,
    ) -> None:
        """Args:
        by_blocks: read the blocks that are asked for alone; False brings the whole step into memory.
        """
        self.tier, self.is_timed = tier, is_timed
        self._lease, self._step, self._form, self._by_blocks = lease, step, form, by_blocks
        self._whole: Sequence[Record] | None = None

    def read(self, first: int, stop: int) -> Sequence[Tensor] | None:
        """See `StepSource`.

        Raises:
            ForeignRecordError: the records are not of the form.
            CacheError: the store cannot be read.
        """
        records = self._read(first, stop)
        if records is None:
            return None
        for record in records:
            self._form.check(record)
        return [payload_tensor(record.payload) for record in records]

    def close(self) -> None:
        """See `StepSource`."""
        self._whole = None

    def _read(self, first: int, stop: int) -> Sequence[Record] | None:
        if self._by_blocks:
            records = self._lease.blocks(self._step, first, stop)
            # Somebody else may have brought the step into memory meanwhile.
            self.is_timed = self.is_timed and self._lease.tiers()[self._step] != "host"
            return records
        if self._whole is None:
            whole = self._lease.step(self._step)
            if whole is not None and len(whole) != self._form.blocks:
                raise ForeignRecordError(
                    f"step {self._step} has records of {len(whole)} blocks, the model has {self._form.blocks}"
                )
            self._whole = whole
        return None if self._whole is None else self._whole[first:stop]
