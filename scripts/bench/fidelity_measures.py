"""How alike two pictures are, as [S, S, 3] of float32 in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from builtin_recipe.measures import psnr_in_mask, seam_step
from builtin_recipe.scenes import Pixels

_GMSD_CONSTANT = 170 / 255**2  # of the paper, for pictures in 0..1
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Likeness:
    """An edit beside the dense edit of the same case.

    Attributes:
        psnr_db: inside the mask.
        ms_ssim: of whole pictures, 1 where they are equal.
        gmsd: of whole pictures, 0 where they are equal.
        seam: step across the mask's border, in times that of the dense edit.
        is_outside_kept: whether every byte outside the mask is the upload's.
        cost: image tokens computed, as a share of the dense edit's.
        rank: of the prompted thing among all that the model knows, 0 is the nearest; None where nobody looked.
    """

    psnr_db: float
    ms_ssim: float
    gmsd: float
    seam: float
    is_outside_kept: bool
    cost: float
    rank: int | None = None


def likeness(
    edited: NDArray[np.uint8],
    dense: NDArray[np.uint8],
    upload: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    cost: float,
    rank: int | None = None,
) -> Likeness:
    """Of two edits [S, S, 3] of an upload; mask is [S, S]."""
    ours, theirs = (picture.astype(np.float32) / np.float32(255) for picture in (edited, dense))
    inside = mask.astype(np.float32)
    dense_seam = seam_step(theirs, inside)
    return Likeness(
        psnr_in_mask(ours, theirs, inside),
        ms_ssim(ours, theirs),
        gmsd(ours, theirs),
        seam_step(ours, inside) / dense_seam if dense_seam else 1.0,
        bool((edited[~mask] == upload[~mask]).all()),
        cost,
        rank,
    )


def ms_ssim(first: Pixels, second: Pixels) -> float:
    """Structural similarity over five scales (Wang et al. 2003); sides are longer than 160 pixels."""
    value = multiscale_structural_similarity_index_measure(_batch(first), _batch(second), data_range=1.0)
    assert isinstance(value, torch.Tensor)
    return float(value)


def gmsd(first: Pixels, second: Pixels) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014): of luma at half the size, by Prewitt's operator.

    Written out, since the packages that have it need torchvision, of which there is no build for every build of torch.
    """
    across = torch.tensor([[1.0, 0.0, -1.0]] * 3) / 3
    operators = torch.stack([across, across.T])[:, None]

    def magnitude(picture: Pixels) -> torch.Tensor:
        luma = (_batch(picture) * _LUMA[:, None, None]).sum(1, keepdim=True)
        gradients = functional.conv2d(functional.avg_pool2d(luma, 2), operators, padding=1)
        return gradients.square().sum(1).sqrt()

    ours, theirs = magnitude(first), magnitude(second)
    similar = (2 * ours * theirs + _GMSD_CONSTANT) / (ours.square() + theirs.square() + _GMSD_CONSTANT)
    return float(similar.std(correction=0))


def summary(found: Sequence[Likeness], known: int) -> dict[str, float | int]:
    """Figures of one setting over its cases.

    Args:
        known: things that ranks are among.
    """
    psnr = [one.psnr_db for one in found]
    ranks = [one.rank for one in found if one.rank is not None]
    figures: dict[str, float | int] = {
        "n": len(found),
        "psnr_db": float(np.median(psnr)),
        "psnr_p10_db": float(np.percentile(psnr, 10)),
        "psnr_worst_db": min(psnr),
        "ms_ssim": float(np.median([one.ms_ssim for one in found])),
        "ms_ssim_p10": float(np.percentile([one.ms_ssim for one in found], 10)),
        "gmsd": float(np.median([one.gmsd for one in found])),
        "seam": float(np.median([one.seam for one in found])),
        "cost": float(np.mean([one.cost for one in found])),
        "outside_kept": sum(one.is_outside_kept for one in found),
    }
    if ranks:
        figures |= {"top1": sum(rank == 0 for rank in ranks) / len(ranks), "ranked": len(ranks), "known": known}
    return figures


def _batch(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
