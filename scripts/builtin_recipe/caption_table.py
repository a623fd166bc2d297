"""Every training caption with a number, and the drawing of one for each sample of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from builtin_recipe.concepts import CAPTIONS, SIZES, Concept, phrase
from builtin_recipe.draws import Draws

SIZE_WORDS = ("", *SIZES)
EMPTY = 0  # number of the empty caption


class CaptionTable:
    """Captions of a concept and size word have numbers that follow each other; the empty caption has 0.

    Attributes:
        texts: captions by number.
    """

    def __init__(self, concepts: Sequence[Concept], device: str) -> None:
        self.texts = [""]
        first, count = [], []
        for concept in concepts:
            starts, counts = [], []
            for word in SIZE_WORDS:
                if word == "" or concept.kind != "nothing":
                    found = _captions(concept, word)
                    starts.append(len(self.texts))
                    counts.append(len(found))
                    self.texts += found
                else:  # nothing has no size
                    starts.append(starts[0])
                    counts.append(counts[0])
            first.append(starts)
            count.append(counts)
        self._first, self._count = torch.tensor(first, device=device), torch.tensor(count, device=device)

    def draw(self, concept: Tensor, word: Tensor, draws: Draws) -> Tensor:
        """Numbers of captions of the concepts [B], with the size words [B] of `SIZE_WORDS`: [B] int64."""
        return self._first[concept, word] + draws.below(self._count[concept, word])


def _captions(concept: Concept, word: str) -> list[str]:
    if concept.kind == "nothing":
        return list(concept.names)
    return [phrase(form, f"{word} {name}".strip()) for form in CAPTIONS for name in concept.names]
