"""What records cost and what they do to a picture, by codec and by how far a step may drift before it is kept.

    python scripts/bench/pipeline_records.py [--edits 3] [--model FOLDER] [--json OUT]

Held-out cases are edited with templates recorded in every way. PSNR and SSIM are to the edit with raw records of all
steps (codec raw, drift 0), inside the mask. `smaller` is bytes of that against bytes of this.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.environment import environment
from builtin_recipe.cases import held_out_cases
from builtin_recipe.evaluation import edited_pixels
from builtin_recipe.measures import psnr_in_mask
from builtin_recipe.pictures import load_atlas
from instgenie.checkpoint import BUILTIN, Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.load_model import load_model
from instgenie.request import EditRequest
from instgenie_cache import MemoryStore

STORE_BYTES = 1 << 31
WAYS: tuple[tuple[CodecName, float], ...] = (
    ("raw", 0.0),
    ("int8", 0.0),
    ("fp8", 0.0),
    ("raw", 0.14),
    ("int8", 0.14),
    ("raw", 0.26),
    ("int8", 0.26),
    ("fp8", 0.26),
)
_SSIM_SIDE = 7  # pixels of a window

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Templates recorded in one way.

    Attributes:
        smaller: bytes of raw records of all steps against theirs, over all edits.
        psnr_db, worst_psnr_db: median and smallest; 99 where pictures are equal.
        ssim: the median.
    """

    codec: CodecName
    drift: float
    template_bytes: float
    smaller: float
    psnr_db: float
    worst_psnr_db: float
    ssim: float


def measure(checkpoint: Checkpoint, requests: Sequence[EditRequest]) -> list[Recorded]:
    """Record and edit every request's picture in every way."""
    found: dict[tuple[CodecName, float], list[tuple[int, float, float]]] = {way: [] for way in WAYS}
    for request in track(requests, "edits", console=Console(stderr=True)):
        mask = request.mask.astype(np.float32)
        reference: Pixels | None = None
        for codec, drift in WAYS:
            editor = Editor(checkpoint, MemoryStore(STORE_BYTES), codec=codec, drift=drift)
            picture = edited_pixels(editor, request)
            with editor.start(request) as running:
                num_bytes = editor.num_bytes(running.template_key)
            editor.close()
            assert num_bytes is not None
            reference = picture if reference is None else reference
            found[codec, drift].append(
                (num_bytes, psnr_in_mask(picture, reference, mask), ssim_in_mask(picture, reference, mask))
            )
    return _rows(found)


def ssim_in_mask(first: Pixels, second: Pixels, mask: Pixels) -> float:
    """Structural similarity (Wang et al. 2004), the mean over windows of 7x7 pixels round each masked pixel.

    Args:
        first, second: [H, W, 3] in 0..1.
        mask: [H, W], 1 inside.
    """
    one, other = (_windows(picture) for picture in (first, second))  # [H', W', 3, 49]
    mean_one, mean_other = one.mean(-1), other.mean(-1)
    covariance = (one * other).mean(-1) - mean_one * mean_other
    variances = one.var(-1) + other.var(-1)
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    likeness /= (mean_one**2 + mean_other**2 + c1) * (variances + c2)
    margin = _SSIM_SIDE // 2
    inside = mask[margin:-margin, margin:-margin] > 0
    return float(likeness.mean(-1)[inside].mean()) if inside.any() else float(likeness.mean())


def _windows(picture: Pixels) -> npt.NDArray[np.float64]:
    views = np.lib.stride_tricks.sliding_window_view(picture.astype(np.float64), (_SSIM_SIDE, _SSIM_SIDE), axis=(0, 1))
    return views.reshape(*views.shape[:3], -1)


def _rows(found: Mapping[tuple[CodecName, float], Sequence[tuple[int, float, float]]]) -> list[Recorded]:
    raw_bytes = sum(num_bytes for num_bytes, _, _ in found[WAYS[0]])
    return [
        Recorded(
            codec=codec,
            drift=drift,
            template_bytes=fmean(num_bytes for num_bytes, _, _ in edits),
            smaller=raw_bytes / sum(num_bytes for num_bytes, _, _ in edits),
            psnr_db=median(psnr for _, psnr, _ in edits),
            worst_psnr_db=min(psnr for _, psnr, _ in edits),
            ssim=median(ssim for _, _, ssim in edits),
        )
        for (codec, drift), edits in found.items()
    ]


def table(rows: Sequence[Recorded]) -> Table:
    """The figures for people."""
    shown = Table(title="records by codec and drift: inside the mask, against raw records of every step")
    for column in ("codec", "drift", "MB", "smaller", "PSNR dB", "worst", "SSIM"):
        shown.add_column(column, justify="left" if column == "codec" else "right")
    for row in rows:
        is_reference = (row.codec, row.drift) == WAYS[0]
        shown.add_row(
            row.codec,
            f"{row.drift:g}",
            f"{row.template_bytes / 1e6:.1f}",
            f"{row.smaller:.1f}x",
            "" if is_reference else f"{row.psnr_db:.1f}",
            "" if is_reference else f"{row.worst_psnr_db:.1f}",
            "" if is_reference else f"{row.ssim:.4f}",
        )
    return shown


def requests_of(checkpoint: Checkpoint, edits: int) -> list[EditRequest]:
    """So many held-out cases at the size of the model's canvas."""
    size = isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch
    return [case.request() for case in held_out_cases("pictured", edits, size, load_atlas(), leap=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=3)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.edits < 1:
        parser.error(f"--edits {options.edits}: at least 1")
    checkpoint = load_model(options.model)
    rows = measure(checkpoint, requests_of(checkpoint, options.edits))
    Console().print(table(rows))
    if options.json:
        content = {"environment": environment(), "edits": options.edits, "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
