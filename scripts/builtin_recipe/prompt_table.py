"""Prompts of all captions, encoded in batches ahead of training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instgenie.text import BertPromptEncoder

BATCH = 1024


@dataclass(frozen=True, slots=True, eq=False)
class PromptTable:
    """Prompts by the number of their caption: `states` [N, T, D] and `pooled` [N, D], bf16."""

    states: Tensor
    pooled: Tensor


@torch.no_grad()
def encode_all(encoder: BertPromptEncoder, texts: Sequence[str], device: str) -> PromptTable:
    """What `encoder.encode` gives for each text.

    Texts of as many tokens are encoded together, so there is no padding that attention could see.
    """
    model = encoder.model.to(device)
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    tokens = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.max_tokens)["input_ids"]
    for number, ids in enumerate(tokens):
        by_length[len(ids)].append(number)
    width = model.config.hidden_size
    states = torch.zeros(len(texts), encoder.max_tokens, width, dtype=torch.bfloat16, device=device)
    pooled = torch.zeros(len(texts), width, dtype=torch.bfloat16, device=device)
    for length, numbers in by_length.items():
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            ids = torch.tensor([tokens[number] for number in batch], device=device)
            found = model(ids).last_hidden_state.float()
            place = torch.tensor(batch, device=device)
            states[place, :length] = found.bfloat16()
            mean = torch.nn.functional.normalize(found.mean(1), dim=-1) * width**0.5
            pooled[place] = mean.bfloat16()
    return PromptTable(states, pooled)
