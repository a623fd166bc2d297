"""On a CUDA device: the same numbers as on the CPU, and records that come back as they went."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from instgenie.checkpoint import load_checkpoint
from instgenie.edit_state import EditState, Guidance, edit_segments
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.records import RecordForm, StepContext, StepRecorder, from_record, to_record
from instgenie_cache import MemoryStore, RecordKey, decode_record, encode_record
from tests.instgenie.edits import a_request, an_editor, pixels
from tests.instgenie.tiny_flux import random_edit, random_prompt, random_template, relative_error, tiny_forward

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Sums in another order, nothing else: matrix products use TF32 only where somebody turns it on.
FLOAT32_ERROR = 1e-4
# bf16 has 8 bits: a product chain of four blocks keeps two digits.
BFLOAT16_ERROR = 5e-2


def on_device(forward: FluxForward, dtype: torch.dtype = torch.float32) -> FluxForward:
    """A copy of the model on the device."""
    return FluxForward(copy.deepcopy(forward.transformer).to(CUDA, dtype))


def an_edit(seed: int, *, rows: int = 4, columns: int = 5) -> EditState:
    """An edit of a box, with classifier-free guidance and a halo."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[1 : rows - 1, 1:3] = True
    template = random_template((rows, columns), 3, seed, fill=True, guidance=None)
    guidance = Guidance((random_prompt(seed), random_prompt(seed + 1, 2)), 3.0, False)
    return random_edit(template, mask, halo=1, guidance=guidance, seed=seed)


def moved(segment: Segment) -> Segment:
    """The segment with its tensors on the device."""
    names = ("tokens", "image_ids", "text", "pooled")
    return replace(segment, **{name: getattr(segment, name).to(CUDA) for name in names})


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, FLOAT32_ERROR), (torch.bfloat16, BFLOAT16_ERROR)], ids=["fp32", "bf16"]
)
def test_the_packed_forward_equals_the_cpus(dtype: torch.dtype, bound: float) -> None:
    forward = tiny_forward(fill=True)
    edits = [an_edit(1), an_edit(2, rows=7, columns=3)]
    segments = [segment for edit in edits for segment in edit_segments(edit, edit.index.all_active, None)]
    on_cuda = on_device(forward, dtype)([moved(segment) for segment in segments])
    for actual, expected in zip(on_cuda, forward(segments), strict=True):
        assert (actual.device.type, actual.dtype) == (CUDA.type, dtype)
        assert relative_error(actual.cpu(), expected) <= bound


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, FLOAT32_ERROR), (torch.bfloat16, BFLOAT16_ERROR)], ids=["fp32", "bf16"]
)
def test_a_cached_pass_equals_the_dense_pass_that_was_recorded(dtype: torch.dtype, bound: float) -> None:
    forward, edit = on_device(tiny_forward(fill=True), dtype), an_edit(3)
    index = edit.index
    form = RecordForm(dtype, index.num_tokens, forward.num_heads, forward.head_dim, forward.num_blocks)
    store = MemoryStore(form.size(1).num_bytes)
    dense = moved(edit_segments(edit, index.all_active, None)[0])
    with store.create("own", form.size(1)) as writer:
        (expected,) = forward([replace(dense, recorder=StepRecorder(writer, 0))])
        writer.commit()
    lease = store.lease("own")
    assert lease is not None
    context = StepContext.open(lease, 0, form, index.context_positions.to(CUDA))
    (actual,) = forward([moved(edit_segments(edit, index, context)[0])])
    assert 0 < len(actual) < len(expected)
    assert relative_error(actual.cpu(), expected.cpu()[index.active_positions]) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_records_come_back_to_the_device_bit_by_bit(dtype: torch.dtype) -> None:
    both = torch.randn(2, 37, 3, 8, device=CUDA).to(dtype)
    both[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    key = RecordKey("t", 0, 0)
    record = decode_record(encode_record(key, to_record(KeyValue(both[0], both[1]))), key)
    again = from_record(record, RecordForm(dtype, 37, 3, 8, blocks=1), CUDA)
    for actual, expected in zip(again, both, strict=True):
        assert (actual.device.type, actual.dtype) == (CUDA.type, dtype)
        assert torch.equal(_bits(actual), _bits(expected))


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "dense"])
@pytest.mark.parametrize("kind", ["tiny_builtin", "tiny_flux_fill"])
def test_an_edit_is_the_cpus_picture(kind: str, cached: bool, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    edits = [an_editor(load_checkpoint(folder, torch.float32, device)) for device in (CPU, CUDA)]
    asked = a_request(cached=cached, halo=0)
    expected, actual = (editor.edit(asked) for editor in edits)
    steps = len(actual.timings.step_ms)
    assert actual.timings.dense_steps == expected.timings.dense_steps == (0 if cached else steps)
    off = np.abs(pixels(actual.picture).astype(int) - pixels(expected.picture))
    assert off.max() <= 2  # levels; convolutions of the autoencoders may use TF32
    assert not off[~asked.mask].any()
