"""Makes the edits of a case, in any of the ways that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.fidelity_settings import Setting, nothing_learnt, refreshes_of
from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.prepared_edit import PreparedEdit
from instgenie.request import EditRequest
from instgenie_cache import MemoryStore

STORE_BYTES = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class _Picked(PreparedEdit):
    """An edit whose dense steps somebody picked."""

    picked: frozenset[int] = frozenset()

    @property
    def refresh_steps(self) -> frozenset[int]:
        """Those that were picked."""
        return self.picked


class _PickingEditor(Editor):
    """Has edits compute all tokens at picked steps."""

    setting: Setting

    def prepare(self, request: EditRequest) -> PreparedEdit:
        """See `Editor`."""
        prepared = super().prepare(request)
        if self.setting.dense is None:
            return prepared
        known = {field.name: getattr(prepared, field.name) for field in fields(PreparedEdit)}
        return _Picked(**known, picked=frozenset(self.setting.dense(prepared.steps)))


class Edits:
    """Edits of one model. Those of one picture share its records, where these are of one kind."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._stores: dict[tuple[CodecName, float], MemoryStore] = {}

    def dense(self, request: EditRequest) -> NDArray[np.uint8]:
        """[S, S, 3], with every token computed."""
        editor = Editor(self.checkpoint, MemoryStore(STORE_BYTES))
        return np.asarray(editor.edit(replace(request, cached=False)).picture)

    def cached(self, request: EditRequest, setting: Setting) -> tuple[NDArray[np.uint8], float]:
        """[S, S, 3], and the image tokens that were computed, as a share of the dense edit's."""
        with _learning(setting):
            result = self._editor(setting).edit(self._request(request, setting))
        timings = result.timings
        computed = len(timings.step_ms)
        steps = computed + timings.extrapolated_steps
        tokens = timings.dense_steps * timings.tokens_total + (computed - timings.dense_steps) * timings.tokens_active
        return np.asarray(result.picture), tokens / (steps * timings.tokens_total)

    def cost(self, request: EditRequest, setting: Setting) -> float:
        """The same share, of an edit that is not made."""
        prepared = self._editor(setting).prepare(self._request(request, setting))
        index, dense = prepared.index, len(prepared.refresh_steps)
        masked = prepared.steps - len(prepared.extrapolated_steps) - dense
        return (dense + masked * index.num_active / index.num_tokens) / prepared.steps

    def errors(self, request: EditRequest, settings: Sequence[Setting]) -> dict[str, list[float]]:
        """Of each setting, after each step: root mean square of the latents' error under the mask, to the dense edit's.

        In times of the dense latents' own root mean square.
        """
        dense = self._latents(request, None)
        found: dict[str, list[float]] = {}
        for setting in settings:
            ours = self._latents(request, setting)
            found[setting.name] = [
                float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
                for a, b in zip(ours, dense, strict=True)
            ]
        return found

    def _latents(self, request: EditRequest, setting: Setting | None) -> list[Tensor]:
        editor = self._editor(setting or Setting("dense"))
        request = replace(request, cached=False) if setting is None else self._request(request, setting)
        found = []
        with torch.inference_mode(), _learning(setting), editor.start(request) as running:
            while not running.done:
                running.advance()
                found.append(running.state.latents[running.state.index.editable_positions])
        return found

    def _editor(self, setting: Setting) -> Editor:
        store = self._stores.setdefault((setting.codec, setting.drift), MemoryStore(STORE_BYTES))
        editor = _PickingEditor(self.checkpoint, store, codec=setting.codec, drift=setting.drift)
        editor.setting = setting
        return editor

    def _request(self, request: EditRequest, setting: Setting) -> EditRequest:
        steps = request.steps or self.checkpoint.settings.steps
        template_prompt = request.prompt if setting.caption else ""
        refreshes = refreshes_of(setting, steps)
        return replace(
            request,
            halo=setting.halo,
            refreshes=refreshes,
            step_cache=setting.step_cache,
            template_prompt=template_prompt,
        )


def _learning(setting: Setting | None) -> AbstractContextManager[None]:
    return nullcontext() if setting is None or setting.dense is None else nothing_learnt()
