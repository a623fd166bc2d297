"""Prompt encoders: what a family's transformer takes as text, from the checkpoint's tokenizers and encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import BertModel, CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """One encoded prompt: `states` [T, D] per text token, `pooled` [P] for the whole, float32."""

    states: Tensor
    pooled: Tensor

    @property
    def num_bytes(self) -> int:
        """Memory that the tensors take, in bytes."""
        return self.states.nbytes + self.pooled.nbytes


class PromptEncoder(Protocol):
    """Turns texts into `Prompt`s."""

    def encode(self, texts: list[str]) -> list[Prompt]:
        """Encode each text on its own: the result does not depend on what else is in the list."""
        ...


class BertPromptEncoder:
    """A sentence encoder (BERT family) read as token states and a pooled sentence vector.

    Every prompt gives `max_tokens` states; those past its end are zero, longer prompts are cut. The pooled vector is
    the mean state, normalised and scaled to unit variance per channel.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: BertModel, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.model = model.eval()
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> list[Prompt]:
        """See `PromptEncoder`."""
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> Prompt:
        tokens = self.tokenizer(text, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        device = self.model.device
        states = self.model(tokens["input_ids"].to(device)).last_hidden_state[0].float()
        pooled = torch.nn.functional.normalize(states.mean(0), dim=0) * states.shape[1] ** 0.5
        padded = states.new_zeros(self.max_tokens, states.shape[1])
        padded[: len(states)] = states
        return Prompt(padded, pooled)


class FluxPromptEncoder:
    """CLIP's pooled vector and T5's token states, as the Flux pipelines of diffusers make them."""

    def __init__(
        self,
        clip_tokenizer: PreTrainedTokenizerBase,
        clip: CLIPTextModel,
        t5_tokenizer: PreTrainedTokenizerBase,
        t5: T5EncoderModel,
        max_tokens: int,
    ) -> None:
        self.clip_tokenizer, self.clip = clip_tokenizer, clip.eval()
        self.t5_tokenizer, self.t5 = t5_tokenizer, t5.eval()
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> list[Prompt]:
        """See `PromptEncoder`."""
        return [Prompt(self._states(text), self._pooled(text)) for text in texts]

    def _ids(self, tokenizer: PreTrainedTokenizerBase, text: str, length: int, device: torch.device) -> Tensor:
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids: Tensor = tokens["input_ids"].to(device)
        return ids

    def _pooled(self, text: str) -> Tensor:
        length = min(77, self.clip.config.max_position_embeddings)
        ids = self._ids(self.clip_tokenizer, text, length, self.clip.device)
        pooled: Tensor = self.clip(ids).pooler_output[0]
        return pooled.float()

    def _states(self, text: str) -> Tensor:
        ids = self._ids(self.t5_tokenizer, text, self.max_tokens, self.t5.device)
        states: Tensor = self.t5(ids)[0][0]
        return states.float()
