"""What a loader may rely on of a step that is read by a lease."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from instgenie.lease_source import LeaseSource
from instgenie.models.segment import KeyValue
from instgenie.records import ForeignRecordError, RecordForm, to_record
from instgenie_cache import CacheError, Record, TierName

FORM = RecordForm(torch.float32, tokens=4, heads=2, head_dim=8, blocks=3)


class Lease:
    """Of a template of two steps in the form, or with records of so many other tokens."""

    def __init__(self, tokens: int = FORM.tokens) -> None:
        self.is_valid, self.is_broken = True, False
        self.now: list[TierName] = ["disk", "disk"]
        some = torch.zeros(tokens, FORM.heads, FORM.head_dim)
        self._records = [to_record(KeyValue(some, some))] * FORM.blocks

    def step(self, _step: int) -> Sequence[Record]:
        """See `TemplateLease`."""
        return self._records

    def blocks(self, _step: int, first: int, stop: int) -> Sequence[Record]:
        """See `TemplateLease`."""
        return self._records[first:stop]

    def tiers(self) -> Sequence[TierName]:
        """See `TemplateLease`."""
        return self.now


class BrokenLease(Lease):
    """A lease that cannot be asked."""

    @property
    def is_valid(self) -> bool:
        """See `TemplateLease`."""
        raise CacheError("no connection")

    @is_valid.setter
    def is_valid(self, _: bool) -> None:
        """Is not noted."""


def source_of(lease: Lease, *, by_blocks: bool = True) -> LeaseSource:
    """Of the lease's second step."""
    return LeaseSource(lease, 1, FORM, "disk", by_blocks=by_blocks, is_timed=True)  # type: ignore[arg-type]


def test_sources_of_one_lease_have_one_owner() -> None:
    lease = Lease()
    assert source_of(lease).owner is source_of(lease, by_blocks=False).owner
    assert source_of(lease).owner is not source_of(Lease()).owner


def test_source_is_valid_for_as_long_as_its_lease() -> None:
    lease = Lease()
    source = source_of(lease)
    assert source.is_valid
    lease.is_valid = False
    assert not source.is_valid
    assert not source_of(BrokenLease()).is_valid


def test_blocks_are_in_memory_of_their_own_until_the_step_is_seen_in_the_store_s() -> None:
    lease = Lease()
    source = source_of(lease)
    source.read(0, 1)
    assert (source.is_own, source.is_timed) == (True, True)
    lease.now = ["disk", "host"]
    source.read(1, 2)
    assert (source.is_own, source.is_timed) == (False, False)
    lease.now = ["disk", "disk"]
    source.read(2, 3)
    assert not source.is_own
    assert not source_of(lease, by_blocks=False).is_own


@pytest.mark.parametrize("by_blocks", [False, True])
def test_records_of_a_lost_lease_are_not_called_foreign(*, by_blocks: bool) -> None:
    """They may be another template's by now; a foreign template is dropped."""
    lease = Lease(tokens=5)
    with pytest.raises(ForeignRecordError):
        source_of(lease, by_blocks=by_blocks).read(0, 1)
    lease.is_valid = False
    with pytest.raises(CacheError) as raised:
        source_of(lease, by_blocks=by_blocks).read(0, 1)
    assert raised.type is CacheError


@pytest.mark.parametrize("by_blocks", [False, True])
def test_payloads_are_those_of_the_records_in_place(*, by_blocks: bool) -> None:
    lease = Lease()
    payloads = source_of(lease, by_blocks=by_blocks).read(1, 3)
    assert payloads is not None
    assert len(payloads) == 2
    for place, record in enumerate(lease.step(1)[1:]):
        assert payloads[place].data_ptr() == np.frombuffer(record.payload, np.uint8).ctypes.data
        assert len(payloads[place]) == FORM.record_bytes
    with pytest.raises(IndexError):
        payloads[2]


def test_one_record_of_another_form_is_noticed_wherever_it_is() -> None:
    lease = Lease()
    lease._records = [*lease._records[:2], *Lease(tokens=5)._records[:1]]
    with pytest.raises(ForeignRecordError):
        source_of(lease).read(0, 3)
    assert source_of(lease).read(0, 2) is not None
