"""Between tensors and the cache's records: recording a template lane, and reading it back for an edit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instgenie.models.segment import KeyValue
from instgenie_cache import FORMAT_VERSION, Record, RecordFormatError, TemplateLease, TemplateSize, TemplateWriter

CODEC = "raw"
# What a template's key says of its records: records of another codec or layout are other records.
CODEC_VERSION = f"{CODEC}/{FORMAT_VERSION}"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_name(dtype: torch.dtype) -> str:
    """The name that records and keys use: `float32`, `bfloat16` ..."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class RecordForm:
    """What one model's records of one template look like: K and V of L tokens, H heads and D channels, per block."""

    dtype: torch.dtype
    tokens: int
    heads: int
    head_dim: int
    blocks: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(2, L, H, D)."""
        return 2, self.tokens, self.heads, self.head_dim

    @property
    def record_bytes(self) -> int:
        """Payload of one record."""
        return math.prod(self.shape) * self.dtype.itemsize

    def size(self, steps: int) -> TemplateSize:
        """What a template of so many steps takes."""
        return TemplateSize(steps, self.blocks, steps * self.blocks * self.record_bytes)

    def check(self, record: Record) -> None:
        """Raise `RecordFormatError` where the record is not of this form."""
        found, expected = (record.codec, record.dtype, record.shape), (CODEC, dtype_name(self.dtype), self.shape)
        if found != expected:
            raise RecordFormatError(f"expected codec, dtype and shape {expected}, got {found}")
        if record.num_bytes != self.record_bytes:
            raise RecordFormatError(f"a record of {self.shape} takes {self.record_bytes} bytes, got {record.num_bytes}")


def to_record(kv: KeyValue) -> Record:
    """K and V [L, H, D] -> a record of shape (2, L, H, D) in their own dtype, in memory of its own."""
    both = torch.stack([kv.key, kv.value]).cpu()
    return Record(CODEC, dtype_name(both.dtype), tuple(both.shape), both.view(torch.uint8).numpy().data.cast("B"))


def from_record(record: Record, device: torch.device) -> KeyValue:
    """K and V [L, H, D] of a record whose form was checked; on the CPU they share a writable payload's memory."""
    payload = bytearray(record.payload) if record.payload.readonly else record.payload
    both = torch.frombuffer(payload, dtype=_DTYPES[record.dtype]).view(record.shape).to(device)
    return KeyValue(both[0], both[1])


class StepRecorder:
    """Puts one template step's K and V into a store, block by block."""

    def __init__(self, writer: TemplateWriter, step: int) -> None:
        self._writer, self._step = writer, step

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`."""
        self._writer.put(self._step, block, to_record(kv))


class StepContext:
    """Context K and V of one edit at one step, from the template's records."""

    def __init__(self, records: Sequence[Record], positions: Tensor) -> None:
        self._records, self._positions = records, positions
        self._last: tuple[int, KeyValue] | None = None

    @classmethod
    def open(cls, lease: TemplateLease, step: int, form: RecordForm, positions: Tensor) -> StepContext | None:
        """The context of a step, or None where a block's record is lost.

        Args:
            positions: [U] the edit's context tokens in raster order, on the model's device.
        Raises:
            RecordFormatError: the records are not of this form.
            CacheError: the store cannot be read.
        """
        records = lease.step(step)
        if records is None:
            return None
        if len(records) != form.blocks:
            raise RecordFormatError(f"step {step} has records of {len(records)} blocks, the model has {form.blocks}")
        for record in records:
            form.check(record)
        return cls(records, positions)

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`. Both guidance branches of an edit ask for the same block in a row: gathered once."""
        if self._last is None or self._last[0] != block:
            whole = from_record(self._records[block], self._positions.device)
            gathered = KeyValue(
                whole.key.index_select(0, self._positions), whole.value.index_select(0, self._positions)
            )
            self._last = (block, gathered)
        return self._last[1]
