"""Blocks compiled, on padded tensors, against blocks as they are."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from instgenie.conditioning import image_ids
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.trajectory import seeded_noise
from tests.instgenie.tiny_flux import CHANNELS, random_prompt, relative_error, tiny_forward

CPU = torch.device("cpu")


class Kept:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.blocks: list[KeyValue] = []

    def record(self, block: int, kv: KeyValue) -> None:
        assert block == len(self.blocks)
        self.blocks.append(kv)


class Given:
    """The context tokens of what another segment recorded."""

    def __init__(self, kept: Kept, rows: torch.Tensor) -> None:
        self.kept, self.rows = kept, rows

    def context(self, block: int) -> KeyValue:
        key, value = self.kept.blocks[block]
        return KeyValue(key[self.rows], value[self.rows])


def dense(grid: tuple[int, int], seed: int, *, text_tokens: int = 3) -> Segment:
    """All tokens of a grid."""
    prompt = random_prompt(seed, text_tokens)
    tokens = seeded_noise((grid[0] * grid[1], CHANNELS), seed)
    return Segment(tokens, image_ids(grid), prompt.states, prompt.pooled, (seed + 1) / 8)


def mixed() -> list[Segment]:
    """A lane; edits that attend to it, from the first block on and later, guided ones too; a dense edit."""
    lane = replace(dense((5, 7), 0), recorder=Kept())
    assert isinstance(lane.recorder, Kept)
    active = torch.tensor([3, 4, 5, 10, 11, 12, 30])
    rest = torch.tensor([n for n in range(35) if n not in active])
    context = Given(lane.recorder, rest)
    whole = dense((5, 7), 1)
    cached = replace(whole, tokens=whole.tokens[active], image_ids=whole.image_ids[active], context=context)
    other = dense((5, 7), 2, text_tokens=5)
    prefixes = [
        replace(dense((5, 7), 3 + blocks), context=Given(lane.recorder, rest), full_blocks=blocks, active=active)
        for blocks in (1, 2, 3, 4)
    ]
    return [lane, cached, replace(cached, text=other.text, pooled=other.pooled), *prefixes, dense((4, 3), 7)]


@pytest.fixture(scope="module", params=["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def compiled(request: pytest.FixtureRequest) -> FluxForward:
    """A tiny model whose blocks are compiled: four graphs. With the backend eager they are traced, no more."""
    torch._dynamo.reset()
    counters.clear()
    forward = FluxForward(tiny_forward().transformer)
    assert forward.compile(backend=request.param)
    assert counters["stats"]["unique_graphs"] == 4
    return forward


def batches() -> list[list[Segment]]:
    """Batches of many lengths, from one segment to eight, on both sides of several buckets."""
    return [[dense((1, 1), 0)], [dense((9, 9), 1)], mixed(), [dense((n, 8), n) for n in (1, 2, 5)]]


def test_compiled_blocks_compute_what_plain_ones_do(compiled: FluxForward) -> None:
    for batch, same_batch in zip(batches(), batches(), strict=True):
        expected, actual = tiny_forward()(batch), compiled(same_batch)
        assert len(actual) == len(batch)
        for one, other in zip(actual, expected, strict=True):
            assert one.shape == other.shape
            assert relative_error(one, other) <= 1e-5


def test_recorders_are_given_the_same(compiled: FluxForward) -> None:
    batch, same_batch = mixed(), mixed()
    tiny_forward()(batch)
    compiled(same_batch)
    expected, actual = batch[0].recorder, same_batch[0].recorder
    assert isinstance(expected, Kept)
    assert isinstance(actual, Kept)
    assert len(actual.blocks) == 4
    for one, other in zip(actual.blocks, expected.blocks, strict=True):
        assert one.key.shape == (35, 2, 16)
        assert relative_error(one.key, other.key) <= 1e-5
        assert relative_error(one.value, other.value) <= 1e-5


def test_what_was_compiled_serves_all_blocks_lengths_and_batches(compiled: FluxForward) -> None:
    counters.clear()
    for batch in batches():
        compiled(batch)
    assert not counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]


@pytest.mark.parametrize("error", [RuntimeError("no compiler\nand a long trace"), OSError("no compiler")])
def test_a_compiler_that_fails_leaves_blocks_as_they_are(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_graph: torch.fx.GraphModule, _example: list[torch.Tensor]) -> Callable[..., object]:
        raise error

    forward = FluxForward(tiny_forward().transformer)
    with caplog.at_level(logging.WARNING, logger="instgenie"):
        assert not forward.compile(backend=fail)
    (message,) = [record.message for record in caplog.records if record.name == "instgenie.models.flux"]
    assert message.endswith("no compiler")
    assert not forward.parts.are_compiled
    (actual,), (expected,) = forward([dense((3, 4), 0)]), tiny_forward()([dense((3, 4), 0)])
    assert torch.equal(actual, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)], ids=["fp32", "bf16"])
def test_on_cuda(dtype: torch.dtype, bound: float) -> None:
    forward = FluxForward(copy.deepcopy(tiny_forward().transformer).to("cuda", dtype))
    assert forward.compile()
    for batch, same_batch in zip(batches(), batches(), strict=True):
        for one, other in zip(forward(same_batch), tiny_forward()(batch), strict=True):
            assert relative_error(one.cpu(), other) <= bound
