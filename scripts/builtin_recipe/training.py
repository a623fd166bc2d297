"""Training of the embedded model: batches, the step, checkpoints that resume, export as a diffusers folder."""

from __future__ import annotations

import copy
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from builtin_recipe.concepts import Concept, all_concepts
from builtin_recipe.scenes import Place, Scene, make_scene
from instgenie.conditioning import image_ids, mask_pixels, pack_latents
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.text import Prompt, PromptEncoder

TEXT_DIM = 384
PATCH = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that fixes a training run but its length."""

    latent_channels: int = 32
    double_blocks: int = 2
    single_blocks: int = 6
    heads: int = 4
    head_dim: int = 64
    text_tokens: int = 16
    size: int = 192  # pixels of a scene; the size the model is served at
    windows: tuple[int, int] = (7, 16)  # tokens; side of the square that a batch's objects and masks stay in
    context: float = 0.35  # tokens computed outside that square, as a share of its own
    batch_tokens: int = 3584  # image and text tokens of a batch
    whole_share: float = 0.15  # share of batches on every token of the scene once the learning rate decays
    muon_rate: float = 4e-3
    adam_rate: float = 1e-3
    decay_from: float = 0.6  # share of the run after which the learning rate goes to zero
    ema: float = 0.998
    prompt_dropout: float = 0.1
    weights: tuple[float, float, float] = (0.78, 0.15, 0.07)  # pictured, shape, nothing
    seed: int = 0


def new_transformer(recipe: Recipe) -> FluxTransformer2DModel:
    """The untrained transformer; its input layout is `instgenie.conditioning`'s."""
    return FluxTransformer2DModel(
        in_channels=2 * recipe.latent_channels + PATCH * PATCH,
        out_channels=recipe.latent_channels,
        num_layers=recipe.double_blocks,
        num_single_layers=recipe.single_blocks,
        attention_head_dim=recipe.head_dim,
        num_attention_heads=recipe.heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        axes_dims_rope=(recipe.head_dim - 48, 24, 24),
    )


def to_pixels(pictures: list[np.ndarray], device: str) -> Tensor:
    """[S, S, 3] pictures in 0..1 -> [B, 3, S, S] in -1..1."""
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2) * 2 - 1


def fill_inputs(autoencoder: PatchAutoencoder, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Clean tokens [B, L, C] and conditioning [B, L, C + P*P] of pictures and their masks [B, 1, S, S]."""
    clean = pack_latents(autoencoder.encode(pixels), 1)
    masked = pack_latents(autoencoder.encode(pixels * (1 - mask)), 1)
    return clean, torch.cat([masked, mask_pixels(mask, PATCH, 1)], dim=-1)


class Trainer:
    """Holds the models, the optimizers and the clock of one run."""

    def __init__(
        self, recipe: Recipe, pictures: dict[str, Image.Image], encoder: PromptEncoder, device: str = "cpu"
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.rng, self.words = np.random.default_rng(recipe.seed), random.Random(recipe.seed)
        self.by_kind: dict[str, list[Concept]] = {}
        for concept in all_concepts():
            self.by_kind.setdefault(concept.kind, []).append(concept)
        self.encoder, self.prompts = encoder, dict[str, Prompt]()
        self.autoencoder = PatchAutoencoder(PATCH, recipe.latent_channels)
        kept = self.autoencoder.fit(to_pixels([self.scene(128).target for _ in range(256)], "cpu"))
        print(f"autoencoder keeps {kept:.4f} of the variance")
        self.autoencoder.to(device).requires_grad_(False)
        self.model = new_transformer(recipe).to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        hidden = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "blocks" in n and "norm" not in n]
        names = {id(p) for p in hidden}
        others = [p for p in self.model.parameters() if id(p) not in names]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=recipe.muon_rate, weight_decay=0.01),
            torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = (recipe.muon_rate, recipe.adam_rate)
        self.step, self.samples, self.seconds = 0, 0, 0.0

    def scene(self, size: int, place: Place | None = None) -> Scene:
        """A random training scene."""
        (kind,) = self.words.choices(("pictured", "shape", "nothing"), self.recipe.weights)
        return make_scene(self.words.choice(self.by_kind[kind]), size, self.pictures, self.rng, self.words, place)

    def prompt(self, text: str) -> Prompt:
        """The text's encoding, made once."""
        if text not in self.prompts:
            (self.prompts[text],) = self.encoder.encode([text])
        return self.prompts[text]

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

    def train_step(self, whole: bool, rate: float) -> float:
        """One optimizer step on a fresh batch at `rate` times the base learning rates; returns the loss."""
        recipe = self.recipe
        place, tokens = self.window(whole)
        batch = max(4, recipe.batch_tokens // (len(tokens) + recipe.text_tokens))
        scenes = [self.scene(recipe.size, place) for _ in range(batch)]
        pixels = to_pixels([s.target for s in scenes], self.device)
        mask = torch.from_numpy(np.stack([s.mask for s in scenes]))[:, None].to(self.device)
        tokens = tokens.to(self.device)
        clean, condition = (x[:, tokens] for x in fill_inputs(self.autoencoder, pixels, mask))
        weight = functional.max_pool2d(mask, PATCH).flatten(2).transpose(1, 2)[:, tokens] + 0.03
        texts = ["" if self.words.random() < recipe.prompt_dropout else s.caption for s in scenes]
        prompts = [self.prompt(text) for text in texts]
        states = torch.stack([p.states for p in prompts]).to(self.device)
        pooled = torch.stack([p.pooled for p in prompts]).to(self.device)
        time_ = torch.sigmoid(torch.randn(batch, device=self.device))
        noise = torch.randn_like(clean)
        noisy = torch.lerp(clean, noise, time_[:, None, None])
        grid = (recipe.size // PATCH, recipe.size // PATCH)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            velocity = self.model(
                hidden_states=torch.cat([noisy, condition], -1),
                encoder_hidden_states=states,
                pooled_projections=pooled,
                timestep=time_,
                img_ids=image_ids(grid, self.device)[tokens],
                txt_ids=torch.zeros(recipe.text_tokens, 3, device=self.device),
                return_dict=False,
            )[0]
        loss = ((velocity.float() - (noise - clean)) ** 2 * weight).sum() / (weight.sum() * clean.shape[-1])
        for optimizer, base in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.samples += batch
        keep = min(recipe.ema, self.step / (self.step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        return float(loss.item())

    def run(self, minutes: float, checkpoint: Path | None, save_every_s: float = 300.0) -> None:
        """Train until `minutes` have been spent on this run, earlier pieces counted in."""
        losses: list[float] = []
        last_save = self.seconds
        while self.seconds < minutes * 60:
            share = self.seconds / (minutes * 60)
            decay = max(0.01, (1 - share) / (1 - self.recipe.decay_from))
            rate = min(1.0, (self.step + 1) / 100, decay)
            whole = share > self.recipe.decay_from and self.words.random() < self.recipe.whole_share
            started = time.perf_counter()
            losses.append(self.train_step(whole, rate))
            self.seconds += time.perf_counter() - started
            if self.step % 200 == 0:
                speed = self.samples / self.seconds
                mean = sum(losses[-200:]) / len(losses[-200:])
                print(f"step {self.step} loss {mean:.4f} {speed:.1f} samples/s {self.seconds / 60:.1f} min", flush=True)
            if checkpoint and self.seconds - last_save > save_every_s:
                self.save(checkpoint)
                last_save = self.seconds
        if checkpoint:
            self.save(checkpoint)

    def save(self, path: Path) -> None:
        """Write everything that `load` needs, in one rename."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "autoencoder": self.autoencoder.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": {"step": self.step, "samples": self.samples, "seconds": self.seconds},
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; scenes are drawn anew."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples = state["progress"]["step"], state["progress"]["samples"]
        self.seconds = state["progress"]["seconds"]
        self.rng, self.words = np.random.default_rng(self.step), random.Random(self.step)
        torch.manual_seed(self.step)

    def export(self, folder: Path) -> None:
        """Write transformer/, vae/, scheduler/ and model_index.json; weights in bf16, the autoencoder in fp32."""
        copy.deepcopy(self.average).to(torch.bfloat16).save_pretrained(folder / "transformer")
        self.autoencoder.save_pretrained(folder / "vae")
        FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "InstGenIEFillPipeline",
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["instgenie", "PatchAutoencoder"],
            "text_encoder": ["transformers", "BertModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
        settings = {
            "name": "instgenie-builtin",
            "steps": 20,
            "guidance": 3.0,
            "canvas_tokens": (self.recipe.size // PATCH) ** 2,
            "text_tokens": self.recipe.text_tokens,
        }
        (folder / "instgenie.json").write_text(json.dumps(settings, indent=1) + "\n")
        run = {"recipe": asdict(self.recipe), "step": self.step, "samples": self.samples, "minutes": self.seconds / 60}
        (folder / "training.json").write_text(json.dumps(run, indent=1) + "\n")
