"""Codecs: how far K and V come back from what went in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CODEC_NAMES, CodecName, Shape, codec_of, codec_version, fp8_to_float
from instgenie.models.segment import KeyValue
from instgenie.records import RecordForm, from_record, to_record
from tests.instgenie.edits import a_request, an_editor, pixels

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALED: list[CodecName] = ["int8", "fp8"]
LARGEST = {"int8": 127, "fp8": 448}
SMALLEST_SCALE = 2.0**-126
# Relative rounding of the dtypes, and the absolute one where numbers are so small that digits are lost.
ROUNDING = {
    torch.float32: (2.0**-24, 2.0**-150),
    torch.bfloat16: (2.0**-8, 2.0**-134),
    torch.float16: (2.0**-11, 2.0**-25),
}


def shape_of(both: Tensor) -> Shape:
    """(2, L, H, D)."""
    a, tokens, heads, channels = both.shape
    return a, tokens, heads, channels


def there_and_back(codec: CodecName, both: Tensor) -> Tensor:
    """What comes back of [2, L, H, D]."""
    return codec_of(codec).decode(codec_of(codec).encode(both), shape_of(both), both.dtype)


def bound(codec: CodecName, both: Tensor) -> Tensor:
    """[2, L, H, D] float64: how far an element may come back from where it was."""
    exact = both.double()
    scale = (exact.abs().amax(-1, keepdim=True) / LARGEST[codec]).clamp(min=SMALLEST_SCALE)
    # int8: half a step. fp8: 3 bits of mantissa, so 2^-4 of the element, or half of the smallest step, 2^-9.
    coded = scale.expand_as(exact) / 2 if codec == "int8" else torch.maximum(exact.abs() * 2**-4, scale * 2**-10)
    relative, absolute = ROUNDING[both.dtype]
    coded = coded * (1 + 2**-18) + exact.abs() * 2**-21  # the arithmetic is float32
    return coded + (exact.abs() + coded) * relative + absolute


def kv_arrays(**elements: Any) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """[2, L, H, D] float32 of any finite values: denormal, zero and huge ones too."""
    shapes = array_shapes(min_dims=3, max_dims=3, max_side=5).map(lambda shape: (2, *shape))
    return arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=False, allow_infinity=False, **elements))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", SCALED)
@settings(deadline=None, max_examples=150)
@given(values=kv_arrays())
def test_error_is_within_the_bound(codec: CodecName, dtype: torch.dtype, values: npt.NDArray[np.float32]) -> None:
    largest = torch.finfo(dtype).max
    both = torch.from_numpy(values).clamp(-largest, largest).to(dtype)
    again = there_and_back(codec, both)
    assert again.dtype == dtype
    assert ((again.double() - both.double()).abs() <= bound(codec, both)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", SCALED)
def test_error_of_usual_values(codec: CodecName, dtype: torch.dtype) -> None:
    """Relative to the root mean square of all: 0.8 % and 2.6 % with rows of 64 normally distributed values."""
    both = torch.randn(2, 200, 4, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    error = (there_and_back(codec, both).double() - both.double()).square().mean().sqrt()
    assert error / both.double().square().mean().sqrt() < {"int8": 0.008, "fp8": 0.028}[codec]
    assert ((there_and_back(codec, both).double() - both.double()).abs() <= bound(codec, both)).all()


@pytest.mark.parametrize("codec", SCALED)
def test_outlier_costs_its_own_row_alone(codec: CodecName) -> None:
    both = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(2))
    expected = there_and_back(codec, both)
    both[1, 2, 1, 4] = 1e30
    again = there_and_back(codec, both)
    assert again[1, 2, 1, 4] == pytest.approx(1e30, rel=1e-5)
    others = torch.ones(2, 5, 3, dtype=torch.bool)
    others[1, 2, 1] = False
    assert torch.equal(again[others], expected[others])
    assert not again[1, 2, 1, :4].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", SCALED)
def test_zeros_and_extremes_are_exact(codec: CodecName, dtype: torch.dtype) -> None:
    assert not there_and_back(codec, torch.zeros(2, 3, 2, 4, dtype=dtype)).any()
    largest = torch.finfo(dtype).max
    both = torch.tensor([largest, -largest, 0.0, 0.0], dtype=dtype).expand(2, 3, 2, 4)
    assert there_and_back(codec, both).float() == pytest.approx(both.float(), rel=2**-19)
    assert there_and_back(codec, both).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", SCALED)
def test_what_is_not_finite(codec: CodecName, dtype: torch.dtype) -> None:
    both = torch.tensor([math.inf, -math.inf, math.nan, 1.0], dtype=dtype).expand(2, 1, 1, 4)
    finite = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, 0.0, 1.0], dtype=dtype).expand(2, 1, 1, 4)
    assert torch.equal(there_and_back(codec, both), there_and_back(codec, finite))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_size_is_known_in_advance(codec: CodecName, dtype: torch.dtype) -> None:
    form = RecordForm(dtype, tokens=7, heads=3, head_dim=16, blocks=2, codec=codec)
    both = torch.randn(form.shape).to(dtype)
    record = to_record(KeyValue(both[0], both[1]), codec)
    form.check(record)
    elements = 2 * 7 * 3 * 16
    expected = elements * dtype.itemsize if codec == "raw" else elements + elements // 16 * 4
    assert form.record_bytes == record.num_bytes == len(codec_of(codec).encode(both)) == expected
    key, value = from_record(record, form, CPU)
    assert torch.equal(torch.stack([key, value]), there_and_back(codec, both))


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_some_positions_are_decoded_as_all_are(codec: CodecName) -> None:
    both = torch.randn(2, 9, 2, 4)
    payload, positions = codec_of(codec).encode(both), torch.tensor([0, 3, 4, 8])
    some = codec_of(codec).decode(payload, shape_of(both), both.dtype, positions)
    assert torch.equal(some, codec_of(codec).decode(payload, shape_of(both), both.dtype)[:, positions])


def test_every_fp8_value_becomes_its_float() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # NaN
    values = codes.view(torch.float8_e4m3fn)
    assert torch.equal(fp8_to_float(values), values.float())
    assert torch.equal(fp8_to_float(values).signbit(), values.float().signbit())


def test_versions_differ() -> None:
    assert len({codec_version(codec) for codec in CODEC_NAMES}) == len(CODEC_NAMES)


@pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])
@pytest.mark.parametrize(("codec", "decibels"), [("int8", 68.0), ("fp8", 62.0)])
def test_edits_are_nearly_those_of_raw_records(
    kind: str, codec: CodecName, decibels: float, request: pytest.FixtureRequest
) -> None:
    """PSNR inside the mask. Measured: 70.7 and 65.2 dB at worst; with zeros for records 43 to 51."""
    checkpoint: Checkpoint = request.getfixturevalue(kind)
    raw, coded = an_editor(checkpoint), an_editor(checkpoint, codec=codec)
    for seed in range(5):
        edit = a_request(seed=seed, halo=1)
        expected, result = raw.edit(edit), coded.edit(edit)
        assert result.timings.dense_steps == 0
        errors = pixels(result.picture)[edit.mask].astype(float) - pixels(expected.picture)[edit.mask]
        psnr = 10 * math.log10(255**2 / max(1e-9, float(np.square(errors).mean())))
        assert psnr >= decibels


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_cuda_device_encodes_and_decodes_as_the_cpu_does(codec: CodecName, dtype: torch.dtype) -> None:
    both = torch.randn(2, 33, 3, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    both[:, 0], both[:, 1, :, 2], both[:, 2, 0, 0] = 0, 1e-40, math.inf
    payload = codec_of(codec).encode(both)
    on_cuda = codec_of(codec).encode(both.cuda())
    assert torch.equal(on_cuda.cpu(), payload)
    expected = codec_of(codec).decode(payload, shape_of(both), dtype)
    assert torch.equal(codec_of(codec).decode(on_cuda, shape_of(both), dtype).cpu(), expected)
