"""Training on a GPU: whole batches of scenes composited on the device, prompts encoded ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from builtin_recipe.caption_table import EMPTY
from builtin_recipe.concepts import Concept
from builtin_recipe.device_scenes import DeviceScenes
from builtin_recipe.draws import Draws
from builtin_recipe.network import fill_inputs, token_weight, velocity_loss
from builtin_recipe.prompt_table import PromptTable, encode_all
from builtin_recipe.recipes import PATCH, DeviceRecipe
from builtin_recipe.run import Run
from instgenie.conditioning import image_ids
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.text import BertPromptEncoder

FITTED_SCENES = 256  # that the autoencoder is fitted to


class DeviceTrainer(Run):
    """A run whose batches follow from the recipe's seed and the number of the step alone.

    A run in pieces therefore sees the scenes, noise and times of one that was never stopped.

    Args:
        compiled: run the transformer through torch.compile; its first step of each size then takes a minute or so.
    """

    recipe: DeviceRecipe

    def __init__(
        self,
        recipe: DeviceRecipe,
        concepts: Sequence[Concept],
        pictures: Mapping[str, Image.Image],
        encoder: BertPromptEncoder,
        device: str = "cpu",
        *,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.generator = torch.Generator(device)
        self.scenes = DeviceScenes(concepts, pictures, recipe.weights, device, recipe.atlas_side)
        self.encoder = encoder
        autoencoder = PatchAutoencoder(PATCH, recipe.latent_channels)
        kept = autoencoder.fit(self._sample(recipe).cpu())
        print(f"autoencoder keeps {kept:.4f} of the variance")
        super().__init__(recipe, concepts, autoencoder, device)
        self._forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.report_every = 20

    def _sample(self, recipe: DeviceRecipe) -> Tensor:
        """Pictures for the autoencoder, [B, 3, S, S] in -1..1."""
        self.generator.manual_seed(recipe.seed)
        return self.scenes.batch(FITTED_SCENES, recipe.size, Draws(self.generator)).target * 2 - 1

    @cached_property
    def prompts(self) -> PromptTable:
        """All captions, encoded when the first step needs one."""
        return encode_all(self.encoder, self.scenes.captions.texts, self.device)

    def advance(self, share: float, rate: float) -> Tensor:  # noqa: ARG002
        """One step."""
        return self.train_step(rate)

    def train_step(self, rate: float) -> Tensor:
        """One optimizer step on a fresh batch at `rate` times the base learning rates; returns the loss, [] float32."""
        recipe = self.recipe
        self.generator.manual_seed((recipe.seed + 1) * 1_000_003 + self.step)
        draws = Draws(self.generator)
        size = recipe.sizes[self.step % len(recipe.sizes)]
        across = size // PATCH
        batch = max(2, recipe.batch_tokens // (across**2 + recipe.text_tokens))
        with torch.no_grad():
            scenes = self.scenes.batch(batch, size, draws)
            clean, condition = fill_inputs(self.autoencoder, scenes.target * 2 - 1, scenes.mask)
            caption = torch.where(draws.chance(recipe.prompt_dropout, batch), EMPTY, scenes.caption)
            time = torch.sigmoid(draws.normal(batch))
        loss = velocity_loss(
            self._forward,
            clean,
            condition,
            token_weight(scenes.mask),
            states=self.prompts.states[caption].float(),
            pooled=self.prompts.pooled[caption].float(),
            time=time,
            noise=draws.normal(*clean.shape),
            ids=image_ids((across, across), self.device),
        )
        self.learn(loss, batch, rate)
        return loss.detach()
