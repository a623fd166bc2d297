"""One step of a leased template, as the loader reads it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from instgenie.pipeline.step_source import BlockPayloads
from instgenie.records import ForeignRecordError, RecordForm, payload_tensor
from instgenie_cache import CacheError, Record, TemplateLease, TierName


class LeaseSource:
    """A `StepSource` of a lease. Whoever gives the lease back releases what is loaded by it before.

    Attributes:
        tier: where the step was when the source was made.
        is_timed: whether reads show what the tier costs, or the store may have begun them before.
        is_own: whether all that was read so far is in memory of its own, none of it the store's.
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
        self.tier, self.is_timed, self.is_own = tier, is_timed, by_blocks
        self._lease, self._step, self._form, self._by_blocks = lease, step, form, by_blocks
        self._whole: Sequence[Record] | None = None

    @property
    def owner(self) -> object:
        """See `StepSource`: the lease, whoever holds it."""
        return self._lease

    @property
    def is_valid(self) -> bool:
        """See `StepSource`."""
        try:
            return self._lease.is_valid
        except CacheError:
            return False

    def read(self, first: int, stop: int) -> BlockPayloads | None:
        """See `StepSource`.

        Raises:
            ForeignRecordError: the records are not of the form.
            CacheError: the store cannot be read.
        """
        records = self._read(first, stop)
        if records is None:
            return None
        try:
            for record in records:
                self._form.check(record)
        except ForeignRecordError as error:
            if self.is_valid:
                raise
            raise CacheError(f"the lease was lost while step {self._step} was read") from error
        return _Payloads(records)

    def close(self) -> None:
        """See `StepSource`."""
        self._whole = None

    def _read(self, first: int, stop: int) -> Sequence[Record] | None:
        if self._by_blocks:
            records = self._lease.blocks(self._step, first, stop)
            # Somebody else may have brought the step into memory meanwhile. Then the lease keeps it there.
            if self._lease.tiers()[self._step] == "host":
                self.is_timed = self.is_own = False
            return records
        if self._whole is None:
            whole = self._lease.step(self._step)
            if whole is not None and len(whole) != self._form.blocks:
                raise ForeignRecordError(
                    f"step {self._step} has records of {len(whole)} blocks, the model has {self._form.blocks}"
                )
            self._whole = whole
        return None if self._whole is None else self._whole[first:stop]


class _Payloads:
    """`BlockPayloads` of records. Tensors are made when they are asked for: that takes longer than all checks."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, place: int) -> Tensor:
        return payload_tensor(self._records[place].payload)
