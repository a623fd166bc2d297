"""What fixes a training run but its length."""

from __future__ import annotations

from dataclasses import dataclass, replace

PATCH = 8  # pixels, side of a token


@dataclass(frozen=True, slots=True)
class CommonRecipe:
    """The model and how its weights are moved, whatever makes its batches."""

    latent_channels: int = 32
    double_blocks: int = 2
    single_blocks: int = 6
    heads: int = 4
    head_dim: int = 64
    text_tokens: int = 16
    size: int = 192  # pixels of a scene; the size the model is served at
    batch_tokens: int = 3584  # image and text tokens of a batch
    muon_rate: float = 4e-3
    adam_rate: float = 1e-3
    decay_from: float = 0.6  # share of the run after which the learning rate falls to a hundredth
    ema: float = 0.998
    prompt_dropout: float = 0.1
    weights: tuple[float, float, float] = (0.78, 0.15, 0.07)  # pictured, shape, nothing
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Recipe(CommonRecipe):
    """A run whose scenes the CPU draws, one by one."""

    windows: tuple[int, int] = (7, 16)  # tokens; side of the square that a batch's objects and masks stay in
    context: float = 0.35  # tokens computed outside that square, as a share of its own
    whole_share: float = 0.15  # share of batches on every token of the scene once the learning rate decays


@dataclass(frozen=True, slots=True)
class DeviceRecipe(CommonRecipe):
    """A run whose scenes the device composites, whole batches at a time, all tokens computed."""

    single_blocks: int = 10
    size: int = 256
    sizes: tuple[int, ...] = (256, 192, 256)  # pixels of the scenes of a batch, in turn
    batch_tokens: int = 256 * 1040
    atlas_side: int = 192  # pixels of a picture on the device
    weights: tuple[float, float, float] = (0.86, 0.08, 0.06)

    def scaled(self, scale: int, batch_tokens: int | None = None) -> DeviceRecipe:
        """The recipe with the sides of scenes divided by `scale`, and other batches if any are given."""
        return replace(
            self,
            size=self.size // scale,
            sizes=tuple(size // scale for size in self.sizes),
            batch_tokens=batch_tokens or self.batch_tokens,
        )
