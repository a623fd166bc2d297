"""Numbers for one picture; pictures are [S, S, 3] in 0..1, masks [S, S] in {0, 1}."""

from __future__ import annotations

import numpy as np

from builtin_recipe.scenes import Pixels

# Well above what the autoencoder and the background's grain change, well below any thing's contrast.
CHANGED = 0.1


def psnr_in_mask(first: Pixels, second: Pixels, mask: Pixels) -> float:
    """Peak signal-to-noise ratio inside the mask in dB; 99 where they are equal."""
    error = float((((first - second) ** 2).mean(2) * mask).sum() / mask.sum())
    return 99.0 if error == 0 else min(99.0, -10 * float(np.log10(error)))


def changed_share(edited: Pixels, background: Pixels, mask: Pixels) -> float:
    """Share of the mask, 0..1, where some channel is more than `CHANGED` off the background."""
    changed = np.abs(edited - background).max(2) > CHANGED
    return float((changed * mask).sum() / mask.sum())


def seam_step(picture: Pixels, mask: Pixels) -> float:
    """Mean absolute difference, in levels of 255, of neighbouring pixels of which one lies in the mask.

    A mask without a border has no seam: 0.
    """
    steps = []
    for axis in (0, 1):
        across = np.diff(mask, axis=axis) != 0
        steps.append(np.abs(np.diff(picture, axis=axis)).mean(2)[across])
    both = np.concatenate(steps)
    return 255 * float(both.mean()) if both.size else 0.0
