"""What a simulated replica runs: a model on a device, as the seconds and bytes that its work takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from types import MappingProxyType
from typing import Literal

from instgenie.balancer.step_costs import FREE, LoadSeconds, StepCosts, TokenSeconds
from instgenie.pipeline.cost import SegmentShape
from instgenie.sched.limits import BatchLimits
from instgenie_cache import TierName

ModelName = Literal["builtin-cpu", "flux-h200"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """A model on a device.

    Attributes:
        source: where the figures are from.
        costs: of steps and loads; `edge_seconds` is what encoding and decoding take of the device.
        encode_share: of `edge_seconds`, that encoding takes.
        beside_seconds: of an edit, before its steps and after them, in threads beside the device: it waits for them,
            and nobody else does.
        canvas_tokens: image tokens of a dense pass.
        text_tokens: of each pass.
        passes: of a step, by default.
        halo: tokens round the mask that are computed with it.
        step_bytes: of the records of a template's step.
        blocks: equal ones, that a step's plan tells apart.
        ahead_bytes: of records that may be on the device before the step that needs them.
        disk_byte_seconds: to read a byte of a machine's disk, one template at a time.
        keeps_lane_steps: as `LaneTask.keeps_steps`.
        limits: of batches.
    """

    source: str
    costs: StepCosts
    encode_share: float = 0.5
    beside_seconds: tuple[float, float] = (0.0, 0.0)
    canvas_tokens: int
    text_tokens: int
    passes: int = 1
    halo: int = 1
    step_bytes: int
    blocks: int
    ahead_bytes: int
    disk_byte_seconds: float = 2e-10
    keeps_lane_steps: bool
    limits: BatchLimits = field(default_factory=BatchLimits)

    @property
    def lane_seconds(self) -> float:
        """What a step of a template that is recorded adds to a batch's."""
        return self.costs.segment_seconds(SegmentShape(self.text_tokens, self.canvas_tokens, self.canvas_tokens))

    @property
    def host_load_seconds(self) -> float:
        """Of loading a step's records from the host tier."""
        return self.costs.loads.get("host", FREE).of(self.step_bytes)

    def active_tokens(self, mask_ratio: float) -> int:
        """Image tokens that an edit computes: those of a square of that share of the picture, and its halo."""
        side = sqrt(mask_ratio * self.canvas_tokens) + 2 * self.halo
        return min(self.canvas_tokens, max(1, round(side * side)))


def flux_on_h200() -> SimModel:
    """Flux with 12 billion parameters on a card like an H200."""
    width, heads, blocks, flops_per_second = 3072, 24, 57, 0.5 * 990e12
    rates = TokenSeconds(row=blocks * 2 * 12 * width**2 / flops_per_second, pair=blocks * 4 * width / flops_per_second)
    loads: dict[TierName, LoadSeconds] = {"host": LoadSeconds(0.0, 1 / 45e9)}
    return SimModel(
        source="Computed from assumptions, not measured: 1024 x 1024 pixels are 4096 tokens, and 512 of text; 19 "
        "double and 38 single blocks of width 3072, each of 12 x 3072^2 parameters a token and of equal time; matrix "
        "products and attention at half of 990 TFLOP/s; 15 ms a step whatever it computes; records of 8 bits with a "
        "scale of 2 bytes for each of 24 heads; 45 GB/s from the host's memory, 5 GB/s from a disk; 60 ms for text "
        "encoders and VAE; 100 ms beside the device for files",
        costs=StepCosts(0.015, rates, rates, loads, edge_seconds=0.06),
        beside_seconds=(0.02, 0.08),
        canvas_tokens=4096,
        text_tokens=512,
        passes=1,
        step_bytes=4096 * blocks * 2 * (width + 2 * heads),
        blocks=19,
        ahead_bytes=10 << 30,
        keeps_lane_steps=False,
        limits=BatchLimits(edits=8, rows=32_768, lane_rows=32_768),
    )


def builtin_on_cpu() -> SimModel:
    """The embedded model on two cores."""
    loads: dict[TierName, LoadSeconds] = {"host": LoadSeconds(0.0, 0.0), "disk": LoadSeconds(0.0016, 1e-9)}
    return SimModel(
        source="Measured once: what `LocalReplica.calibrate` fitted with two threads, in bf16, on two cores that other "
        "programs used too; encoding and decoding of edits after that. The disk is a guess",
        costs=StepCosts(
            0.0095,
            TokenSeconds(1.6e-4, 1.09e-7, 6.9e-6),
            TokenSeconds(1.6e-4, 1.09e-7, 6.9e-6),
            loads,
            edge_seconds=0.026,
        ),
        encode_share=0.7,
        beside_seconds=(0.01, 0.02),
        canvas_tokens=576,
        text_tokens=16,
        passes=2,
        step_bytes=8 * 2 * 576 * 256 * 2,
        blocks=8,
        ahead_bytes=1 << 30,
        disk_byte_seconds=1e-9,
        keeps_lane_steps=True,
        limits=BatchLimits(edits=8, rows=4096, lane_rows=1),
    )


MODELS: Mapping[ModelName, Callable[[], SimModel]] = MappingProxyType(
    {"flux-h200": flux_on_h200, "builtin-cpu": builtin_on_cpu}
)
