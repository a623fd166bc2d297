"""Speed against likeness, a point for each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bench.peers_systems import Group
from bench.plots import BLUE, GREEN, GREY, ORANGE, svg

STYLES: Mapping[Group, tuple[str, str]] = {
    "ours": (BLUE, "o"),
    "step cache": (ORANGE, "s"),
    "diffusers": (GREY, "D"),
    "strawman": (GREEN, "^"),
}
TIMES = (0.5, 1, 1.5, 2, 3, 4, 6, 8)


class Point(Protocol):
    """What is drawn of a row."""

    @property
    def system(self) -> str: ...
    @property
    def group(self) -> Group: ...
    @property
    def speedup(self) -> float: ...
    @property
    def psnr_db(self) -> float | None: ...


def plot(rows: Sequence[Point], path: Path) -> None:
    """Write the picture; systems whose pictures were not compared are left out."""
    with svg(path, (9, 6)) as (axis,):
        for group, (colour, marker) in STYLES.items():
            own = [row for row in rows if row.group == group and row.psnr_db is not None]
            scores = [row.psnr_db for row in own if row.psnr_db is not None]
            axis.plot([row.speedup for row in own], scores, marker, color=colour, label=group)
            for row, score in zip(own, scores, strict=True):
                axis.annotate(row.system, (row.speedup, score), (4, 3), textcoords="offset points", fontsize=6)
        axis.set_xscale("log")
        axis.set_xticks(TIMES, [f"{times:g}" for times in TIMES])
        axis.minorticks_off()
        axis.margins(x=0.12)
        axis.set_xlabel("times as fast as diffusers, one edit at a time")
        axis.set_ylabel("PSNR inside the mask to its edit in float32, dB (median)")
