"""Pictures of figures: one style, and the same figures make the same file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#777777"


@contextmanager
def svg(path: Path, size: tuple[float, float], columns: int = 1) -> Iterator[list[Axes]]:
    """Axes side by side, which are written to `path` at the end of the block, with one legend below them.

    Args:
        size: width and height in inches.
    """
    with mpl.rc_context():
        mpl.rcParams.update({"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9})
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        axes: list[Axes] = list(figure.subplots(1, columns, squeeze=False)[0])
        yield axes
        for axis in axes:
            axis.grid(alpha=0.3)
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))
        figure.savefig(path, format="svg", metadata={"Date": None})
