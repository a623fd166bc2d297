"""A training run: its models, optimizers and clock, checkpoints that resume, export as a diffusers folder."""

from __future__ import annotations

import copy
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor

from builtin_recipe.concept_file import save_concepts
from builtin_recipe.concepts import Concept
from builtin_recipe.network import new_transformer
from builtin_recipe.recipes import PATCH, CommonRecipe
from builtin_recipe.state_files import load_state, save_state
from builtin_recipe.weight_shards import remove_weights
from instgenie.model_settings import FIDELITY_FILE
from instgenie.models.patch_autoencoder import PatchAutoencoder

WARM_UP_STEPS = 100


class Run(ABC):
    """Holds the models, the optimizers and the clock of one run; a subclass makes the batches.

    Attributes:
        step, samples: made so far, in earlier pieces and by the model that it started from, too.
        seconds: spent on this run so far.
        earlier_samples, earlier_minutes: of them, what the model that it started from was made with.
        shard_bytes: size of a checkpoint's files; None is one file.
        report_every: steps between two lines of the log.
    """

    def __init__(
        self, recipe: CommonRecipe, concepts: Sequence[Concept], autoencoder: PatchAutoencoder, device: str
    ) -> None:
        self.recipe, self.concepts, self.device = recipe, concepts, device
        self.autoencoder = autoencoder.to(device).requires_grad_(False)
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
        self.earlier_samples, self.earlier_minutes = 0, 0.0
        self.shard_bytes: int | None = None
        self.report_every = 200
        self._warm_from = 0
        self._minutes: float | None = None  # of the whole run, as far as that is known

    @abstractmethod
    def advance(self, share: float, rate: float) -> Tensor:
        """One optimizer step at `rate` times the base learning rates, `share` of the run being over; gives its loss.

        The loss, [] float32, stays on the device: to read it is to wait for the step.
        """

    def learn(self, loss: Tensor, batch: int, rate: float) -> None:
        """Move the weights, and their running average, after one batch of that many samples."""
        for optimizer, base in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.samples += batch
        keep = min(self.recipe.ema, self.step / (self.step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)

    def rate(self, share: float) -> float:
        """Learning rate when `share` of the run is over, in units of the base one: warm-up, level, decay to 0.01."""
        decay = max(0.01, (1 - share) / (1 - self.recipe.decay_from))
        return min(1.0, (self.step - self._warm_from + 1) / WARM_UP_STEPS, decay)

    def run(
        self,
        minutes: float,
        checkpoint: Path | None,
        *,
        until: float = float("inf"),
        steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        save_every_s: float = 300.0,
    ) -> None:
        """Train until `minutes` have been spent on this run, earlier pieces counted in, or the clock says `until`.

        Only the lines of the log and checkpoints wait for the device, so between them the clock may run ahead of it by
        the steps that are in its queue.

        Args:
            steps: to make at most.
        """
        if self._minutes is not None and self._minutes != minutes:  # so has its schedule: the rate may jump
            self._warm_from = self.step
            print(f"a run of {self._minutes:g} minutes becomes one of {minutes:g}, and warms up again", flush=True)
        self._minutes = minutes
        losses: list[Tensor] = []
        last_save, first_step = self.seconds, self.step
        while (
            self.seconds < minutes * 60
            and (steps is None or self.step < first_step + steps)
            and (started := clock()) < until
        ):
            share = self.seconds / (minutes * 60)
            losses.append(self.advance(share, self.rate(share)))
            mean = _mean(losses) if self.step % self.report_every == 0 else None
            self.seconds += clock() - started
            if mean is not None:
                self._report(mean)
                losses.clear()
            if checkpoint and self.seconds - last_save > save_every_s:
                self.save(checkpoint)
                last_save = self.seconds
        if losses:
            self._report(_mean(losses))
        if checkpoint and self.step > first_step:
            self.save(checkpoint)

    def _report(self, loss: float) -> None:
        speed = (self.samples - self.earlier_samples) / self.seconds
        print(f"step {self.step} loss {loss:.4f} {speed:.1f} samples/s {self.seconds / 60:.1f} min", flush=True)

    def save(self, path: Path) -> None:
        """Write everything that `load` needs."""
        optimizers = {"optimizers": [o.state_dict() for o in self.optimizers]}
        save_state(self._weights() | optimizers, path, self.shard_bytes)

    def save_light(self, path: Path, shard_bytes: int | None) -> None:
        """Write the weights in bf16 and nothing of the optimizers: about a third of the size.

        A run that goes on from it warms up once more.
        """
        state = self._weights()
        for name in ("model", "average"):
            state[name] = {key: value.to(torch.bfloat16) for key, value in state[name].items()}
        save_state(state, path, shard_bytes)

    def _weights(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "autoencoder": self.autoencoder.state_dict(),
            "progress": {
                "step": self.step,
                "samples": self.samples,
                "seconds": self.seconds,
                "earlier_samples": self.earlier_samples,
                "earlier_minutes": self.earlier_minutes,
                "warm_from": self._warm_from,
                "minutes": self._minutes,
            },
            "made_for": self._made_for(),
        }

    def _made_for(self) -> dict[str, Any]:
        """What a checkpoint has to share with the run that goes on from it."""
        concepts = [concept.label for concept in self.concepts]
        return _config(self.model) | _config(self.autoencoder) | {"concepts": concepts}

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of either form, whole or light.

        Raises:
            ValueError: it is of another architecture or of other concepts, or a part of it is missing.
        """
        state = load_state(path)
        _check_same(state.get("made_for", {}), self._made_for())  # older ones do not say
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        for optimizer, saved in zip(self.optimizers, state.get("optimizers", ()), strict=False):
            optimizer.load_state_dict(saved)
        self.step, self.samples = state["progress"]["step"], state["progress"]["samples"]
        self.seconds = state["progress"]["seconds"]
        self.earlier_samples = state["progress"].get("earlier_samples", 0)
        self.earlier_minutes = state["progress"].get("earlier_minutes", 0.0)
        self._minutes = state["progress"].get("minutes")
        # A checkpoint from before this was kept has none: no warm-up but the run's first.
        self._warm_from = state["progress"].get("warm_from", 0) if "optimizers" in state else self.step

    def start_from(self, folder: Path) -> None:
        """Take the weights that `export` wrote. The run is a new one: it warms up, and its learning rates begin anew.

        Raises:
            OSError: the folder holds no model.
            ValueError: the model is of another architecture, was not made by `export`, or lacks weights.
        """
        transformer = _exported(FluxTransformer2DModel, folder / "transformer")
        autoencoder = _exported(PatchAutoencoder, folder / "vae")
        _check_same(_config(transformer) | _config(autoencoder), _config(self.model) | _config(self.autoencoder))
        made = json.loads((folder / "training.json").read_text())
        if missing := {"step", "samples", "minutes"} - made.keys():
            raise ValueError(f"training.json has no {', '.join(sorted(missing))}")
        for own, taken in ((self.model, transformer), (self.average, transformer), (self.autoencoder, autoencoder)):
            own.load_state_dict(taken.state_dict())
        self.step, self.samples = made["step"], made["samples"]
        self.earlier_samples, self.earlier_minutes = made["samples"], made["minutes"]
        self._warm_from = self.step

    def export(self, folder: Path) -> None:
        """Write transformer/, vae/, scheduler/ and what describes them; weights in bf16, the autoencoder in fp32."""
        for part in ("transformer", "vae"):
            remove_weights(folder / part)
        (folder / FIDELITY_FILE).unlink(missing_ok=True)  # was measured on other weights
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
            "draws": [name for concept in self.concepts for name in concept.names],
        }
        (folder / "instgenie.json").write_text(json.dumps(settings, indent=1) + "\n")
        run = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "samples": self.samples,
            "minutes": self.earlier_minutes + self.seconds / 60,
        }
        (folder / "training.json").write_text(json.dumps(run, indent=1) + "\n")
        save_concepts(folder, self.concepts)


def _mean(losses: Sequence[Tensor]) -> float:
    return float(torch.stack(list(losses)).mean())


def _exported(kind: Any, folder: Path) -> Any:
    """A model from its own folder, all of its weights."""
    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    if names := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise ValueError(f"{folder}: weights are missing or too many: {', '.join(names[:3])} ({len(names)} in all)")
    return model


def _check_same(found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ValueError for the first thing asked that is found to be otherwise; nothing found is no fault."""
    for name, value in asked.items() if found else ():
        if (other := found.get(name)) != value:
            raise ValueError(f"{name}: {_in_short(other)}, but the recipe's {_in_short(value)}")


def _in_short(value: object) -> str:
    return f"{len(value)} ({', '.join(value[:3])} ...)" if isinstance(value, list) and value[3:] else str(value)


def _config(model: Any) -> dict[str, Any]:
    """What fixes a model's weights, as JSON has it."""
    return {name: value for name, value in json.loads(model.to_json_string()).items() if not name.startswith("_")}
