"""Time of an edit by mask: masked compute, a step cache, and both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.plots import BLUE, GREEN, ORANGE, svg


class Step(Protocol):
    """What is drawn of a step."""

    @property
    def step(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def active(self) -> float: ...
    @property
    def speedup(self) -> float: ...
    @property
    def ideal(self) -> float | None: ...


class Line(Protocol):
    """What is drawn of a step cache."""

    @property
    def batch(self) -> int: ...
    @property
    def skipped(self) -> float: ...
    @property
    def speedup(self) -> float: ...


def plot(steps: Sequence[Step], lines: Sequence[Line], path: Path) -> None:
    """A column for each size of batch."""
    batches = sorted({step.batch for step in steps})
    with svg(path, (9, 4), len(batches)) as axes:
        for axis, batch in zip(axes, batches, strict=True):
            ours = [step for step in steps if step.batch == batch and step.ideal and step.step.startswith("ours")]
            ours.sort(key=lambda step: step.active)
            active = [step.active for step in ours]
            axis.plot(active, [1 / step.speedup for step in ours], "o-", color=BLUE, label="masked")
            ideal = [1 / step.ideal for step in ours if step.ideal]
            axis.plot(active, ideal, ":", color=GREEN, label="masked, operations alone")
            for line in lines:
                if line.batch == batch:
                    label = "first-block cache" if line is lines[0] else None
                    axis.axhline(1 / line.speedup, linestyle="--", color=ORANGE, label=label)
                    axis.annotate(f"{line.skipped:.0%} skipped", (0.02, 1 / line.speedup), fontsize=7, va="bottom")
            axis.set_title(f"batch of {batch}")
            axis.set_xlabel("share of the tokens that is computed")
            axis.set_ylim(0, 1.1)
        axes[0].set_ylabel("time / diffusers' dense edit")
