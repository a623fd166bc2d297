"""All pictures as one tensor on the device, and how they are laid on scenes, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

LEVELS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """A square of each scene in whole pixels; tensors are [B] float32."""

    left: Tensor
    top: Tensor
    side: Tensor

    def across(self, size: int) -> tuple[Tensor, Tensor]:
        """Where the pixels of a scene lie in the square, 0..1 inside it: x [B, 1, S] and y [B, S, 1]."""
        centres = torch.arange(size, device=self.left.device) + 0.5
        x = (centres - self.left[:, None]) / self.side[:, None]
        y = (centres - self.top[:, None]) / self.side[:, None]
        return x[:, None, :], y[:, :, None]


class DeviceAtlas:
    """Pictures as [LEVELS, N, 4, P, P] uint8, colours times alpha; each level is half as sharp as the one before.

    A picture drawn at a fraction of its size is taken from the level that is nearest to PIL's smooth resizing.
    """

    def __init__(self, pictures: Sequence[Image.Image], side: int, device: str) -> None:
        self.side = side
        # "RGBa" is PIL's name for colours times alpha
        small = [picture.resize((side, side)).convert("RGBa") for picture in pictures]
        sharp = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).permute(0, 3, 1, 2)
        levels = [sharp.float()]
        for level in range(1, LEVELS):
            blurred = functional.avg_pool2d(levels[0], 2**level)
            levels.append(functional.interpolate(blurred, (side, side), mode="bilinear", align_corners=False))
        self.pixels = torch.stack([level.round().byte() for level in levels]).to(device)

    def lay(self, index: Tensor, at: Squares, mirrored: Tensor, size: int) -> Tensor:
        """The pictures [B] of the atlas in their squares of empty scenes: [B, 4, S, S] in 0..1, colours times alpha."""
        level = torch.log2(self.side / at.side).floor().clamp(0, LEVELS - 1).long()
        x, y = at.across(size)
        x = torch.where(mirrored[:, None, None], 1 - x, x)
        grid = torch.stack(torch.broadcast_tensors(2 * x - 1, 2 * y - 1), dim=-1)
        chosen = self.pixels[level, index].float() / 255
        return functional.grid_sample(chosen, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def over(scene: Tensor, layer: Tensor) -> Tensor:
    """[B, 3, S, S] with a layer [B, 4, S, S], colours times alpha, on it."""
    return scene * (1 - layer[:, 3:]) + layer[:, :3]
