"""Edits by diffusers: its Flux Fill pipeline and its transformer, on the weights and the inputs that ours has.

The pipeline's own call runs: its noise levels, its scheduler, its loop. What it is given differs from what it would
make itself in three ways. It has one pass a step, so classifier-free guidance is in the transformer that it is given,
done as in diffusers' `FluxPipeline`. It makes text states, masked latents and noise of other models than the embedded
one, so these are passed in. And after every step the latents beside the mask are replaced by the picture's, noised, as
diffusers' Flux inpaint pipeline does: without that the edit drifts off the picture, since the model was trained to look
at what is under the mask. Latents and noise levels stay float32, which the pipeline would round to the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn

from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import EditState, Guidance
from instgenie.encoder import Encoder
from instgenie.flow import FlowShift
from instgenie.request import EditRequest

BRANCHES = ("cond", "uncond")  # as diffusers' pipelines name them to its caches


class GuidedTransformer(nn.Module):
    """The transformer with all of a guidance's passes in one call.

    Attributes:
        together: whether the branches are one batch, as some of the caches need, or one call after the other.
        calls: of the transformer, and `attended` of them that computed the attention of its last block, since `guide`.
        timestep: of the last call, 0..1000.
    """

    def __init__(self, transformer: FluxTransformer2DModel, *, together: bool) -> None:
        super().__init__()
        self.transformer, self.together = transformer, together
        self.config = transformer.config
        self.guidances: Sequence[Guidance] = ()
        self.calls = self.attended = 0
        self.timestep = 1000.0
        last = transformer.single_transformer_blocks[-1].attn.to_q
        self._watch = last.register_forward_hook(self._count_attention)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.transformer.dtype  # type: ignore[no-any-return]

    def guide(self, guidances: Sequence[Guidance]) -> None:
        """Of the edits of the next batch, with as many prompts each."""
        self.guidances = guidances
        self.calls = self.attended = 0

    def forward(self, hidden_states: Tensor, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        """The guided velocities [B, L, C] float32 at the noise level `timestep`, 0..1."""
        self.timestep = 1000 * float(timestep[0])
        ids = {name: inputs[name] for name in ("txt_ids", "img_ids")}
        prompts = list(zip(*(guidance.prompts for guidance in self.guidances), strict=True))
        states = [torch.stack([prompt.states for prompt in branch]) for branch in prompts]
        pooled = [torch.stack([prompt.pooled for prompt in branch]) for branch in prompts]
        if self.together:
            count = len(prompts)
            answer = self._call(
                hidden_states.repeat(count, 1, 1), torch.cat(states), torch.cat(pooled), timestep.repeat(count), ids
            )
            branches = list(answer.chunk(count))
        else:
            branches = []
            for name, own_states, own_pooled in zip(BRANCHES, states, pooled, strict=False):
                with self.transformer.cache_context(name):
                    branches.append(self._call(hidden_states, own_states, own_pooled, timestep, ids))
        velocities = [guidance.combine(own) for guidance, *own in zip(self.guidances, *branches, strict=True)]
        return (torch.stack(velocities),)

    def _call(
        self, hidden_states: Tensor, states: Tensor, pooled: Tensor, timestep: Tensor, ids: dict[str, Tensor]
    ) -> Tensor:
        self.calls += 1
        answer: Tensor = self.transformer(
            hidden_states=hidden_states.to(self.dtype),
            encoder_hidden_states=states.to(self.dtype),
            pooled_projections=pooled.to(self.dtype),
            timestep=timestep,
            **ids,
            return_dict=False,
        )[0]
        return answer

    def _count_attention(self, *_: object) -> None:
        self.attended += 1

    def close(self) -> None:
        """Stop watching the transformer."""
        self._watch.remove()


class _Shape(nn.Module):
    """In the place of an autoencoder: the pipeline reads from it how many pixels a token has."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        halvings = (patch // 2).bit_length() - 1  # the pipeline packs 2x2 latents into a token
        self.config = SimpleNamespace(block_out_channels=(1,) * (halvings + 1), latent_channels=channels // 4)


class _FillPipeline(FluxFillPipeline):  # type: ignore[misc]
    """The pipeline with conditioning that was made before, [B, L, K]."""

    _execution_device = torch.device("cpu")
    condition: Tensor

    def prepare_mask_latents(self, *_: object) -> tuple[Tensor, Tensor]:
        """The mask's channels and the masked picture's, which the pipeline puts together again."""
        return self.condition[..., self.condition.shape[-1] :], self.condition


class DiffusersEdits:
    """Edits with a checkpoint by diffusers' pipeline, one or a static batch.

    Attributes:
        transformer: what the pipeline calls; `transformer.transformer` is the checkpoint's own.
    """

    def __init__(self, checkpoint: Checkpoint, *, together: bool = False, keeps: bool = True) -> None:
        """Args:
        together: see `GuidedTransformer`.
        keeps: whether latents beside the mask are replaced after every step.
        """
        self._checkpoint, self._keeps = checkpoint, keeps
        self._encoder = Encoder(checkpoint, "raw", 0.0)
        self.transformer = GuidedTransformer(checkpoint.forward.transformer, together=together)
        self._pipeline = _FillPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**_scheduler_options(checkpoint.shift)),
            vae=_Shape(checkpoint.codec.channels, checkpoint.codec.patch),
            **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")),
        )
        self._pipeline.transformer = self.transformer
        self._pipeline.set_progress_bar_config(disable=True)

    def attended(self) -> float:
        """Share of the transformer's calls of the last edit which computed the attention of its last block."""
        return self.transformer.attended / self.transformer.calls

    @torch.no_grad()
    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        """The edited pictures. Requests of a batch have pictures of one size, and as many steps."""
        prepared = [self._encoder.prepare(request) for request in requests]
        states = [self._encoder.encode(one)[0] for one in prepared]
        self.transformer.guide([state.guidance for state in states])
        nothing = torch.zeros(*states[0].latents.shape[:1], 0)
        self._pipeline.condition = torch.stack(
            [nothing if state.inputs.condition is None else state.inputs.condition for state in states]
        )
        prompts = [state.guidance.prompts[0] for state in states]
        width, height = prepared[0].canvas.size
        (latents,) = self._pipeline(
            image=[one.canvas for one in prepared],
            mask_image=[Image.fromarray(one.mask.numpy()) for one in prepared],
            height=height,
            width=width,
            num_inference_steps=len(states[0].sigmas) - 1,
            latents=torch.stack([state.latents for state in states]),
            prompt_embeds=torch.stack([prompt.states for prompt in prompts]),
            pooled_prompt_embeds=torch.stack([prompt.pooled for prompt in prompts]),
            output_type="latent",
            return_dict=False,
            callback_on_step_end=_keeper(states) if self._keeps else None,
        )
        pictures = []
        for request, one, tokens in zip(requests, prepared, latents, strict=True):
            canvas = to_picture(self._checkpoint.codec.decode(tokens[None], one.index.grid))
            pictures.append(paste_back(request.picture, canvas, request.mask, one.window, request.feather))
        return pictures

    def close(self) -> None:
        """Let go of the transformer."""
        self.transformer.close()


def _keeper(states: Sequence[EditState]) -> Callable[[object, int, object, dict[str, Tensor]], dict[str, Tensor]]:
    """Puts the template's trajectory beside the masks, once a step is done."""
    editable = torch.stack([state.index.editable for state in states])[..., None]

    def keep(_: object, step: int, __: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = torch.stack([state.trajectory.at(state.sigmas[step + 1]) for state in states])
        return {"latents": torch.where(editable, tensors["latents"], kept)}

    return keep


def _scheduler_options(shift: FlowShift) -> dict[str, object]:
    return {
        "shift": shift.shift,
        "use_dynamic_shifting": shift.dynamic,
        "base_image_seq_len": shift.base_tokens,
        "max_image_seq_len": shift.max_tokens,
        "base_shift": shift.base_shift,
        "max_shift": shift.max_shift,
    }
