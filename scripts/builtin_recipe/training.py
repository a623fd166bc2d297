"""Training on a CPU: scenes drawn one by one, most steps on a window of each."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from builtin_recipe.concepts import CONCEPTS, Concept, every_caption
from builtin_recipe.network import fill_inputs, token_weight, velocity_loss
from builtin_recipe.prompt_table import encode_all
from builtin_recipe.recipes import PATCH, Recipe
from builtin_recipe.run import Run
from builtin_recipe.scenes import Place, Scene, make_scene
from instgenie.conditioning import image_ids
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.text import BertPromptEncoder

Prompt = tuple[Tensor, Tensor]  # states [T, D] and pooled [D], bf16


def to_pixels(pictures: list[np.ndarray], device: str) -> Tensor:
    """[S, S, 3] pictures in 0..1 -> [B, 3, S, S] in -1..1."""
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2) * 2 - 1


class Trainer(Run):
    """A run on scenes that the CPU draws.

    Args:
        compiled: run the transformer through torch.compile; its first step then takes a minute or so.
    """

    recipe: Recipe

    def __init__(
        self,
        recipe: Recipe,
        pictures: dict[str, Image.Image],
        encoder: BertPromptEncoder,
        device: str = "cpu",
        *,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.pictures = recipe, pictures
        self.rng, self.words = np.random.default_rng(recipe.seed), random.Random(recipe.seed)
        self.by_kind: dict[str, list[Concept]] = {}
        for concept in CONCEPTS:
            self.by_kind.setdefault(concept.kind, []).append(concept)
        self.encoder, self._prompts = encoder, dict[str, Prompt]()
        autoencoder = PatchAutoencoder(PATCH, recipe.latent_channels)
        kept = autoencoder.fit(to_pixels([self.scene(128).target for _ in range(256)], "cpu"))
        print(f"autoencoder keeps {kept:.4f} of the variance")
        super().__init__(recipe, CONCEPTS, autoencoder, device)
        self._forward = torch.compile(self.model, dynamic=True) if compiled else self.model

    def scene(self, size: int, place: Place | None = None) -> Scene:
        """A random training scene."""
        (kind,) = self.words.choices(("pictured", "shape", "nothing"), self.recipe.weights)
        return make_scene(self.words.choice(self.by_kind[kind]), size, self.pictures, self.rng, self.words, place)

    def prompt(self, text: str, concept: Concept) -> Prompt:
        """States [T, D] and pooled vector [D] of "" or a caption of the concept; all of its captions are encoded then.

        One by one they would take a tenth of a run.
        """
        if text not in self._prompts:
            texts = ["", *every_caption(concept)]
            table = encode_all(self.encoder, texts, self.device)
            self._prompts.update(zip(texts, zip(table.states, table.pooled, strict=True), strict=True))
        return self._prompts[text]

    def window(self, whole: bool) -> tuple[Place, Tensor]:
        """The square of a batch, and the tokens to compute [L]: the square's and some others.

        Most of a scene is context that the loss hardly weighs; leaving out a share of it makes a step about three
        times cheaper.
        """
        recipe, across = self.recipe, self.recipe.size // PATCH
        if whole:
            return Place(0, 0, recipe.size), torch.arange(across * across)
        side = min(across, int(self.rng.integers(recipe.windows[0], recipe.windows[1] + 1)))
        left, top = (int(v) for v in self.rng.integers(0, across - side + 1, 2))
        inside = np.zeros((across, across), bool)
        inside[top : top + side, left : left + side] = True
        others = np.flatnonzero(~inside)
        chosen = self.rng.permutation(others)[: int(recipe.context * side * side)]
        tokens = np.sort(np.concatenate([np.flatnonzero(inside), chosen]))
        return Place(left * PATCH, top * PATCH, side * PATCH), torch.from_numpy(tokens)

    def advance(self, share: float, rate: float) -> Tensor:
        """One step; some of those in the decay are on every token of their scenes."""
        whole = share > self.recipe.decay_from and self.words.random() < self.recipe.whole_share
        return self.train_step(whole, rate)

    def train_step(self, whole: bool, rate: float) -> Tensor:
        """One optimizer step on a fresh batch at `rate` times the base learning rates; returns the loss, [] float32."""
        recipe = self.recipe
        place, tokens = self.window(whole)
        batch = max(4, recipe.batch_tokens // (len(tokens) + recipe.text_tokens))
        scenes = [self.scene(recipe.size, place) for _ in range(batch)]
        pixels = to_pixels([s.target for s in scenes], self.device)
        mask = torch.from_numpy(np.stack([s.mask for s in scenes]))[:, None].to(self.device)
        tokens = tokens.to(self.device)
        clean, condition = (x[:, tokens] for x in fill_inputs(self.autoencoder, pixels, mask))
        texts = ["" if self.words.random() < recipe.prompt_dropout else s.caption for s in scenes]
        states, pooled = zip(*(self.prompt(t, s.concept) for t, s in zip(texts, scenes, strict=True)), strict=True)
        grid = (recipe.size // PATCH, recipe.size // PATCH)
        loss = velocity_loss(
            self._forward,
            clean,
            condition,
            token_weight(mask)[:, tokens],
            states=torch.stack(states),
            pooled=torch.stack(pooled),
            time=torch.sigmoid(torch.randn(batch, device=self.device)),
            noise=torch.randn_like(clean),
            ids=image_ids(grid, self.device)[tokens],
        )
        self.learn(loss, batch, rate)
        return loss.detach()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; scenes are drawn anew."""
        super().load(path)
        self._draw_anew()

    def start_from(self, folder: Path) -> None:
        """See `Run`; scenes are drawn anew."""
        super().start_from(folder)
        self._draw_anew()

    def _draw_anew(self) -> None:
        scenes, words, noise = np.random.SeedSequence((self.recipe.seed, self.step)).generate_state(3)
        self.rng, self.words = np.random.default_rng(scenes), random.Random(int(words))
        torch.manual_seed(int(noise))
