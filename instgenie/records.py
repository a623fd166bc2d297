"""Between tensors and the cache's records: recording a template lane, and reading it back for an edit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from instgenie.models.segment import KeyValue
from instgenie_cache import Record, RecordFormatError, RecordKey, RecordStore

CODEC = "raw"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_name(dtype: torch.dtype) -> str:
    """The name that records and keys use: `float32`, `bfloat16` ..."""
    return str(dtype).removeprefix("torch.")


def to_record(kv: KeyValue) -> Record:
    """K and V [L, H, D] -> a record of shape (2, L, H, D) in their own dtype, in memory of its own."""
    both = torch.stack([kv.key, kv.value]).cpu()
    return Record(CODEC, dtype_name(both.dtype), tuple(both.shape), both.view(torch.uint8).numpy().data.cast("B"))


def from_record(record: Record, device: torch.device) -> KeyValue:
    """K and V [L, H, D] of a record; on the CPU they share a writable payload's memory.

    Raises:
        RecordFormatError: the record is of a codec, dtype or shape that is not K and V.
    """
    _check_key_value(record)
    payload = bytearray(record.payload) if record.payload.readonly else record.payload
    both = torch.frombuffer(payload, dtype=_DTYPES[record.dtype]).view(record.shape).to(device)
    return KeyValue(both[0], both[1])


def _check_key_value(record: Record) -> None:
    is_known = record.codec == CODEC and record.dtype in _DTYPES
    if not is_known or len(record.shape) != 4 or record.shape[0] != 2 or min(record.shape) < 1:
        raise RecordFormatError(f"no K/V record: codec {record.codec!r}, dtype {record.dtype!r}, shape {record.shape}")
    expected_bytes = math.prod(record.shape) * _DTYPES[record.dtype].itemsize
    if record.num_bytes != expected_bytes:
        raise RecordFormatError(
            f"shape {record.shape} of {record.dtype} takes {expected_bytes} bytes, got {record.num_bytes}"
        )


class StepRecorder:
    """Puts one template step's K and V into a store, block by block."""

    def __init__(self, store: RecordStore, template: str, step: int) -> None:
        self._store, self._template, self._step = store, template, step

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`."""
        self._store.put(RecordKey(self._template, self._step, block), to_record(kv))


class StepContext:
    """Context K and V of one edit at one step, from the template's records."""

    def __init__(self, records: Sequence[Record], positions: Tensor, device: torch.device) -> None:
        self._records, self._positions, self._device = records, positions, device
        self._last: tuple[int, KeyValue] | None = None

    @classmethod
    def open(
        cls, store: RecordStore, template: str, step: int, num_blocks: int, positions: Tensor, device: torch.device
    ) -> StepContext | None:
        """The context of a step, or None where any block's record is missing.

        Args:
            positions: [U] the edit's context tokens in raster order.
        Raises:
            RecordFormatError: a record is not K and V.
        """
        records = []
        for block in range(num_blocks):
            record = store.get(RecordKey(template, step, block))
            if record is None:
                return None
            _check_key_value(record)
            records.append(record)
        return cls(records, positions.to(device), device)

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`. Both guidance branches of an edit ask for the same block in a row: gathered once."""
        if self._last is None or self._last[0] != block:
            whole = from_record(self._records[block], self._device)
            gathered = KeyValue(
                whole.key.index_select(0, self._positions), whole.value.index_select(0, self._positions)
            )
            self._last = (block, gathered)
        return self._last[1]
