"""Between tensors and the cache's records: recording a template lane, and reading it back for an edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from instgenie.codecs import CodecName, Shape, codec_of
from instgenie.models.segment import KeyValue
from instgenie_cache import Record, RecordFormatError, TemplateLease, TemplateSize, TemplateWriter


class ForeignRecordError(RecordFormatError):
    """A record in good order that is not what the model makes: of another codec, dtype or shape, or one too many."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name that records and keys use: `float32`, `bfloat16` ..."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class RecordForm:
    """What one model's records of one template look like: K and V of L tokens, H heads and D channels, per block."""

    dtype: torch.dtype
    tokens: int
    heads: int
    head_dim: int
    blocks: int
    codec: CodecName = "raw"

    @cached_property
    def shape(self) -> Shape:
        """(2, L, H, D)."""
        return 2, self.tokens, self.heads, self.head_dim

    @cached_property
    def record_bytes(self) -> int:
        """Payload of one record."""
        return codec_of(self.codec).payload_bytes(self.shape, self.dtype)

    @cached_property
    def step_bytes(self) -> int:
        """Payload of all blocks of a step."""
        return self.blocks * self.record_bytes

    def size(self, steps: int) -> TemplateSize:
        """What a template of so many steps takes."""
        return TemplateSize(steps, self.blocks, self.record_bytes)

    def check(self, record: Record) -> None:
        """Raise `ForeignRecordError` where the record is not of this form."""
        found = (record.codec, record.dtype, record.shape)
        if found != self._content:
            raise ForeignRecordError(f"expected codec, dtype and shape {self._content}, got {found}")
        if record.num_bytes != self.record_bytes:
            raise ForeignRecordError(
                f"a record of {self.shape} takes {self.record_bytes} bytes, got {record.num_bytes}"
            )

    @cached_property
    def _content(self) -> tuple[str, str, Shape]:
        return self.codec, dtype_name(self.dtype), self.shape


@dataclass(frozen=True, slots=True, eq=False)
class DeviceRecord:
    """A record on the model's device: [num_bytes] uint8, and what it means."""

    payload: Tensor
    codec: CodecName
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, kv: KeyValue, codec: CodecName) -> Self:
        """K and V [L, H, D] -> a record of shape (2, L, H, D) in memory of its own."""
        both = torch.stack([kv.key, kv.value])
        return cls(codec_of(codec).encode(both), codec, kv.key.dtype, tuple(both.shape))

    def to_host(self) -> Record:
        """For a store."""
        return Record(self.codec, dtype_name(self.dtype), self.shape, self.payload.cpu().numpy().data.cast("B"))


# Takes a record on its way to a store: the row that it is filed under, its block, and what it is.
PutRecord = Callable[[int, int, DeviceRecord], None]


def to_record(kv: KeyValue, codec: CodecName = "raw") -> Record:
    """K and V [L, H, D] -> a record of shape (2, L, H, D), encoded where they are, in host memory of its own."""
    return DeviceRecord.of(kv, codec).to_host()


def from_record(record: Record, form: RecordForm, device: torch.device) -> KeyValue:
    """K and V [L, H, D] of a record whose form was checked; on the CPU those of `raw` share the payload's memory."""
    payload = payload_tensor(record.payload).to(device, non_blocking=True)
    key, value = codec_of(form.codec).decode(payload, form.shape, form.dtype)
    return KeyValue(key, value)


def payload_tensor(payload: memoryview) -> Tensor:
    """The payload as [num_bytes] uint8 that shares its memory, which must not be written to."""
    if payload.readonly:
        return torch.from_numpy(np.asarray(_Shared(payload)))
    return torch.frombuffer(payload, dtype=torch.uint8)  # a tenth of the time


class _Shared:
    """Memory that NumPy takes for writable: torch has no read-only tensors, and warns of read-only arrays."""

    def __init__(self, memory: memoryview) -> None:
        interface: dict[str, Any] = np.frombuffer(memory, np.uint8).__array_interface__  # made when asked for
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._memory = memory  # kept alive by the array that is made of this


class StepRecorder:
    """Puts one template step's K and V into a store, block by block."""

    def __init__(self, writer: TemplateWriter, step: int, codec: CodecName = "raw") -> None:
        self._writer, self._step, self._codec = writer, step, codec

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`."""
        self._writer.put(self._step, block, to_record(kv, self._codec))


class Payloads(Protocol):
    """Payloads of a step's blocks, [record_bytes] uint8."""

    def __getitem__(self, block: int, /) -> Tensor:
        """That of a block, on any device."""
        ...


class StepContext:
    """Context K and V of one edit at one step, from the template's records.

    Attributes:
        keep: whether payloads are collected in `brought`.
        brought: payloads on the model's device, in memory of their own, by block.
    """

    def __init__(self, payloads: Payloads, form: RecordForm, positions: Tensor, *, owns: bool = False) -> None:
        """Args:
        positions: [U] the edit's context tokens in raster order, on the model's device.
        owns: whether payloads that are on the device are in memory of their own.
        """
        self._payloads, self._form, self._positions, self._owns = payloads, form, positions, owns
        self.keep = False
        self._last: tuple[int, KeyValue] | None = None
        self.brought: dict[int, Tensor] = {}

    @classmethod
    def open(cls, lease: TemplateLease, step: int, form: RecordForm, positions: Tensor) -> StepContext | None:
        """The context of a step, or None where a block's record is lost.

        Args:
            positions: [U] the edit's context tokens in raster order, on the model's device.
        Raises:
            ForeignRecordError: the records are not of this form.
            CacheError: the store cannot be read.
        """
        records = lease.step(step)
        if records is None:
            return None
        if len(records) != form.blocks:
            raise ForeignRecordError(f"step {step} has records of {len(records)} blocks, the model has {form.blocks}")
        for record in records:
            form.check(record)
        return cls([payload_tensor(record.payload) for record in records], form, positions)

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`. Both guidance branches of an edit ask for the same block in a row: decoded once."""
        if self._last is None or self._last[0] != block:
            payload = self._bring(block)
            form = self._form
            key, value = codec_of(form.codec).decode(payload, form.shape, form.dtype, self._positions)
            self._last = (block, KeyValue(key, value))
        return self._last[1]

    def wait(self) -> None:
        """Until the device has read all that it was told to read from the payloads' memory."""
        if self._positions.is_cuda:
            torch.cuda.current_stream(self._positions.device).synchronize()

    def _bring(self, block: int) -> Tensor:
        if block in self.brought:
            return self.brought[block]
        given = self._payloads[block]
        payload = given.to(self._positions.device, non_blocking=True)
        if self.keep:
            is_shared = payload.data_ptr() == given.data_ptr() and not self._owns
            payload = self.brought[block] = payload.clone() if is_shared else payload
        return payload
