"""Likeness against cost, and how errors grow from step to step, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.plots import BLUE, GREEN, GREY, ORANGE, PINK, svg


def draw(figures: Mapping[str, Mapping[str, float | int]], errors: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write the picture."""
    with svg(path, (9.0, 4.0), columns=2) as (left, right):
        for name, row in figures.items():
            colour = ORANGE if "refresh" in name else GREY if "dense" in name else BLUE
            left.plot(100 * row["cost"], row["psnr_db"], "o", color=colour)
            left.annotate(
                name, (100 * row["cost"], row["psnr_db"]), fontsize=5, xytext=(3, 2), textcoords="offset points"
            )
        left.set_xlabel("image tokens computed, % of dense")
        left.set_ylabel("PSNR inside the mask, dB, median")
        for (name, values), colour in zip(errors.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
            right.plot(range(1, len(values) + 1), [100 * value for value in values], color=colour, label=name)
        right.set_xlabel("step")
        right.set_ylabel("error of latents under the mask, %")
        right.legend()
