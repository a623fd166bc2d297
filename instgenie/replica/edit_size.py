"""What an edit takes of a device's memory, told before it is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from instgenie.correction import unused_refreshes
from instgenie.editor import Editor
from instgenie.prepared_edit import PreparedEdit

_STATE_TENSORS = 5  # [L, C] float32: latents, clean latents, two noises, and inputs that are kept
# Hidden states, Q, K, V, modulation and MLP of one block, in channels of a hidden state: one block is alive at a time.
_ACTIVATIONS = 24


@dataclass(frozen=True, slots=True)
class EditSize:
    """Prices edits of one model.

    Attributes:
        text_tokens: of a short prompt.
        state_bytes: an image token's, between steps.
        row_bytes: a computed token's, in a step.
        correction_bytes: a context token's that a refresh keeps, in all blocks.
    """

    text_tokens: int
    state_bytes: int
    row_bytes: int
    correction_bytes: int

    @classmethod
    def of(cls, editor: Editor) -> Self:
        """For an editor that does not work yet."""
        forward = editor.checkpoint.forward
        channels = int(forward.transformer.config.in_channels)
        hidden = forward.num_heads * forward.head_dim
        item_bytes = forward.dtype.itemsize
        return cls(
            editor.encoder.text_tokens(),
            4 * _STATE_TENSORS * channels,
            _ACTIVATIONS * hidden * item_bytes,
            2 * forward.num_blocks * (hidden + forward.num_heads * item_bytes),
        )

    def num_bytes(self, prepared: PreparedEdit) -> int:
        """Of an edit, from its encoding until it is decoded."""
        index = prepared.index
        refreshes = len(prepared.refresh_steps)
        rows = prepared.passes * (self.text_tokens + (index.num_tokens if refreshes else index.num_active))
        unused = unused_refreshes(prepared.refresh_steps, prepared.steps, prepared.extrapolated_steps)
        corrections = refreshes - len(unused)
        # A second one is put together while the first one is there.
        kept = min(2, corrections) * prepared.passes * (index.num_tokens - index.num_active)
        return index.num_tokens * self.state_bytes + rows * self.row_bytes + kept * self.correction_bytes
