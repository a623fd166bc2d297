"""How K and V of a block become payload bytes, and how they come back. Everything runs on the tensors' own device.

    codec  payload of K and V, [2, L, H, D]
    raw    the elements as they are
    int8   scales [2, L, H] float32, then [2, L, H, D] int8: element = scale * value, values in -127..127
    fp8    scales [2, L, H] float32, then [2, L, H, D] float8_e4m3fn: element = scale * value, values in -448..448

A scale maps the largest magnitude of one token's head to the largest value. Scales are float32: float16 has not the
range of bfloat16, and would save but 1.5 % of a payload at 128 channels.

Both codecs with scales keep no infinities and no NaN: what is infinite becomes the largest number of its dtype, what
is no number becomes 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from instgenie_cache import FORMAT_VERSION

CodecName = Literal["raw", "int8", "fp8"]
CODEC_NAMES: tuple[CodecName, ...] = get_args(CodecName)
_LAYOUT_VERSION = 1  # of the table above
_SCALE_DTYPE = torch.float32
_SMALLEST_SCALE = 2.0**-126  # below it float32 loses digits: rows that small come back as zeros, or nearly

Shape = tuple[int, int, int, int]


class Codec(Protocol):
    """K and V of a block to bytes and back."""

    def payload_bytes(self, shape: Shape, dtype: torch.dtype) -> int:
        """Length of the payload of K and V of that shape, [2, L, H, D], and dtype."""
        ...

    def encode(self, both: Tensor) -> Tensor:
        """[2, L, H, D] -> [payload_bytes] uint8; that of `raw` may share the memory."""
        ...

    def decode(self, payload: Tensor, shape: Shape, dtype: torch.dtype, positions: Tensor | None = None) -> Tensor:
        """[payload_bytes] uint8 -> [2, L, H, D] of `dtype`, or [2, U, H, D] where positions [U] of tokens are given.

        Without positions the result of `raw` shares the payload's memory.
        """
        ...


def codec_of(name: CodecName) -> Codec:
    """The codec of that name."""
    return _CODECS[name]


def codec_version(name: CodecName) -> str:
    """What a template's key says of its records: records of another codec or layout are other records."""
    return f"{name}.{_LAYOUT_VERSION}/{FORMAT_VERSION}"


@dataclass(frozen=True, slots=True)
class _Raw:
    """The elements as they are."""

    def payload_bytes(self, shape: Shape, dtype: torch.dtype) -> int:
        return math.prod(shape) * dtype.itemsize

    def encode(self, both: Tensor) -> Tensor:
        return both.contiguous().view(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: Shape, dtype: torch.dtype, positions: Tensor | None = None) -> Tensor:
        both = payload.view(dtype).view(shape)
        return both if positions is None else both.index_select(1, positions)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """One byte per element and a scale for each token's head.

    Attributes:
        dtype: of the values.
        largest: magnitude of a value.
    """

    dtype: torch.dtype
    largest: int

    def payload_bytes(self, shape: Shape, dtype: torch.dtype) -> int:  # noqa: ARG002 - the same for every dtype
        return math.prod(shape[:-1]) * _SCALE_DTYPE.itemsize + math.prod(shape)

    def encode(self, both: Tensor) -> Tensor:
        numbers = torch.nan_to_num(both).to(_SCALE_DTYPE)
        # [2, L, H, 1]. The upper limit: `largest` times the scale must not be infinite for rounding.
        scales = numbers.abs().amax(-1, keepdim=True) / self.largest
        scales = scales.clamp(_SMALLEST_SCALE, torch.finfo(_SCALE_DTYPE).max * (1 - 2.0**-20) / self.largest)
        values = (numbers / scales).clamp(-self.largest, self.largest)
        if not self.dtype.is_floating_point:
            values = values.round()
        return torch.cat([part.view(-1).view(torch.uint8) for part in (scales, values.to(self.dtype))])

    def decode(self, payload: Tensor, shape: Shape, dtype: torch.dtype, positions: Tensor | None = None) -> Tensor:
        both, tokens, heads, channels = shape
        scale_bytes = both * tokens * heads * _SCALE_DTYPE.itemsize
        scales = payload[:scale_bytes].view(_SCALE_DTYPE).view(both, tokens, heads, 1)
        values = payload[scale_bytes:].view(both, tokens, heads, channels)
        if positions is not None:  # before decoding: fewer bytes to gather, fewer values to decode
            scales, values = scales.index_select(1, positions), values.index_select(1, positions)
        largest = torch.finfo(dtype).max
        return (_to_float(values.view(self.dtype)) * scales).clamp_(-largest, largest).to(dtype)


def _to_float(values: Tensor) -> Tensor:
    """int8 or float8_e4m3fn (without NaN) -> float32, exactly."""
    if values.dtype == torch.int8 or values.is_cuda:
        return values.float()
    return fp8_to_float(values)


def fp8_to_float(values: Tensor) -> Tensor:
    """float8_e4m3fn without NaN -> float32, exactly, by way of float16: five times as fast as torch does it on CPUs.

    Sign, 4 bits of exponent and 3 of mantissa are moved to where float16 has them, whose exponents count from 8 less.
    """
    bits = values.view(torch.int8).to(torch.int16)
    return bits.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16).float().mul_(2.0**8)


_CODECS: dict[CodecName, Codec] = {
    "raw": _Raw(),
    "int8": _Scaled(torch.int8, 127),
    "fp8": _Scaled(torch.float8_e4m3fn, 448),
}
