"""How a cached edit differs from the same edit with every token computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from instgenie.editor import Editor
    from instgenie.mask import Mask
    from instgenie.request import EditRequest


@dataclass(frozen=True, slots=True)
class Comparison:
    """Denoising times of both edits, each with everything loaded and the template recorded, and their likeness.

    Attributes:
        psnr_in_mask_db: peak signal-to-noise ratio of the masked pixels, None where they are identical.
    """

    dense_ms: float
    cached_ms: float
    psnr_in_mask_db: float | None

    @property
    def speedup(self) -> float:
        """How many times faster the cached edit is."""
        return self.dense_ms / self.cached_ms


def compare_with_dense(editor: Editor, request: EditRequest) -> Comparison:
    """Run the edit densely and cached, after it has been run once."""
    dense, cached = editor.dense(request), editor.edit(request)
    psnr = psnr_db(dense.picture, cached.picture, request.mask)
    return Comparison(dense.timings.denoise_ms, cached.timings.denoise_ms, psnr)


def psnr_db(one: Image.Image, other: Image.Image, mask: Mask) -> float | None:
    """Peak signal-to-noise ratio over the masked pixels' RGB, None where they are identical."""
    a, b = (np.asarray(picture.convert("RGB"), np.float64)[mask] for picture in (one, other))
    mean_square = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / mean_square) if mean_square else None
