"""Denoising steps of a batch by where the records are: on the device, in page-locked memory, on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import torch

from bench.gpu_models import ARCHITECTURES, random_request
from bench.harness import Spread, timed_ms
from bench.speed_flops import pass_flops
from bench.tiers_ways import forget_pages
from instgenie.batch_step import run_step
from instgenie.checkpoint import Checkpoint
from instgenie.conditioning import image_ids
from instgenie.editor import Editor
from instgenie.host import await_device
from instgenie.pipeline.cost import CostModel
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicyName
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.records import RecordForm
from instgenie_cache.stores.build_store import StoreSettings, build_store

Source = Literal["device", "host", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """Steps of one kind.

    Attributes:
        system: diffusers; ours, dense; ours; ours, compiled.
        source: of the records.
        policy: that plans steps; None takes every record.
        active: share of the image tokens that is computed.
        ms: of the batch's step, without the first one: nothing could be loaded ahead of it.
        tflops: 10^12 operations a second, those of full blocks that only fill a wait not counted.
        loaded_gb_per_second: 10^9 bytes of records that were read, from wherever they were.
        stall_share: of the time, waiting for records.
        full_blocks: computed on all tokens, a step.
    """

    system: str
    batch: int
    active: float
    ms: Spread
    tflops: float
    source: Source | None = None
    policy: PlanPolicyName | None = None
    loaded_gb_per_second: float = 0.0
    stall_share: float = 0.0
    full_blocks: float = 0.0


class StepBench:
    """Times steps of a model with random weights.

    Attributes:
        tokens: image tokens.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, costs: CostModel, folder: Path) -> None:
        """Args:
        checkpoint: with steps of an edit, the first of which does not count.
        name: of its architecture.
        costs: that plans go by.
        folder: for records on disk.
        """
        self.checkpoint, self.costs = checkpoint, costs
        self.tokens = ARCHITECTURES[name].side ** 2
        self._name, self._folder = name, folder
        forward = checkpoint.forward
        form = RecordForm(forward.dtype, self.tokens, forward.num_heads, forward.head_dim, forward.num_blocks)
        self._template_bytes = form.size(checkpoint.settings.steps).num_bytes

    def diffusers(self, batch: int) -> StepRow:
        """Diffusers' own forward."""
        of, forward = ARCHITECTURES[self._name], self.checkpoint.forward
        drawn = partial(torch.randn, device=forward.device, dtype=forward.dtype)
        given = {
            "hidden_states": drawn(batch, self.tokens, of.channels),
            "encoder_hidden_states": drawn(batch, of.text_tokens, of.text_dim),
            "pooled_projections": drawn(batch, of.pooled_dim),
            "timestep": torch.full((batch,), 0.5, device=forward.device, dtype=forward.dtype),
            "guidance": torch.full((batch,), 3.5, device=forward.device, dtype=forward.dtype),
            "img_ids": image_ids((of.side, of.side), forward.device),
            "txt_ids": torch.zeros(of.text_tokens, 3, device=forward.device),
        }

        @torch.inference_mode()
        def step() -> None:
            forward.transformer(**given, return_dict=False)
            await_device(forward.device)

        step()
        ms = [timed_ms(step) for _ in range(self.checkpoint.settings.steps - 1)]
        return self._row("diffusers", batch, 1.0, ms)

    def dense(self, batch: int) -> StepRow:
        """Ours, all tokens."""
        with self._editor() as editor:
            return self._edits(editor, batch, 0.5, "ours, dense", None)

    def on_device(self, batches: Sequence[int], shares: Sequence[float], system: str = "ours") -> Iterator[StepRow]:
        """Records in the device's memory."""
        with self._editor(device_bytes=self._template_bytes) as editor:
            self._record(editor)
            for share in shares:
                for batch in batches:
                    yield self._edits(editor, batch, share, system, "device")

    def from_host(
        self, batches: Sequence[int], shares: Sequence[float], policies: Sequence[PlanPolicyName]
    ) -> Iterator[StepRow]:
        """Records in the host's memory, page-locked where there is a device to copy to."""
        with self._editor() as editor:
            self._record(editor)
            for share in shares:
                for batch in batches:
                    for policy in policies:
                        yield self._edits(editor, batch, share, "ours", "host", policy)

    def from_disk(
        self, batches: Sequence[int], shares: Sequence[float], policies: Sequence[PlanPolicyName]
    ) -> Iterator[StepRow]:
        """Records on disk, none of them in the system's memory; a store for each, as after a restart."""
        with self._editor(folder=self._folder) as editor:
            self._record(editor)
        for share in shares:
            for batch in batches:
                for policy in policies:
                    forget_pages(self._folder)
                    with self._editor(folder=self._folder) as editor:
                        yield self._edits(editor, batch, share, "ours", "disk", policy)

    @contextmanager
    def _editor(self, device_bytes: int = 0, folder: Path | None = None) -> Iterator[Editor]:
        room = 2 * self._template_bytes + (64 << 20)  # records, and what rounds them up
        settings = StoreSettings(host_bytes=room, folder=folder, disk_bytes=room if folder else 0)
        editor = Editor(self.checkpoint, build_store(settings), device_cache_bytes=2 * device_bytes)
        try:
            yield editor
        finally:
            editor.close()

    def _record(self, editor: Editor) -> None:
        """Have the template in the store, and as near to the device as it gets."""
        for _ in range(2):
            editor.edit(random_request(self._name, 0.05))
            editor.flush()

    def _edits(
        self,
        editor: Editor,
        batch: int,
        share: float,
        system: str,
        source: Source | None,
        policy: PlanPolicyName | None = None,
    ) -> StepRow:
        """A batch of edits of one template, from their first step to their last."""
        planner = None if policy is None else StepPlanner(self.costs, PLAN_POLICIES[policy])
        editor.plan_steps(planner)
        with ExitStack() as stack:
            edits = []
            for number in range(batch):
                request = replace(random_request(self._name, share, number), cached=source is not None)
                edits.append(stack.enter_context(editor.start(request)))
            tiers = {edit.timings.tier for edit in edits}
            assert tiers == {source}, f"the records came from {tiers}, not from {source}"
            outcomes = []
            while not edits[0].done:
                outcomes.append(run_step(editor.checkpoint.forward, edits, planner=planner))
            plans = [step.plan for edit in edits for step in edit.taken[1:] if step.plan is not None]
            active = 1.0 if source is None else edits[0].state.index.num_active / self.tokens
        counted = outcomes[1:]
        ms = [outcome.ms for outcome in counted]
        loaded = 0.0
        if source not in (None, "device"):
            full = fmean(plan.full_prefix for plan in plans) / self.checkpoint.forward.num_blocks if plans else 0.0
            step_bytes = self._template_bytes / self.checkpoint.settings.steps
            loaded = (1 - full) * step_bytes / (median(ms) / 1000) / 1e9
        row = self._row(system, batch, active, ms)
        return replace(
            row,
            source=source,
            policy=policy,
            loaded_gb_per_second=loaded,
            stall_share=sum(outcome.stall_ms for outcome in counted) / batch / sum(ms),
            full_blocks=fmean(plan.full_prefix for plan in plans) if plans else 0.0,
        )

    def _row(self, system: str, batch: int, active: float, ms: Sequence[float]) -> StepRow:
        config = self.checkpoint.forward.transformer.config
        text, computed = ARCHITECTURES[self._name].text_tokens, round(active * self.tokens)
        flops = batch * pass_flops(config, text, computed, self.tokens)
        spread = Spread.of(ms)
        return StepRow(
            system=system, batch=batch, active=active, ms=spread, tflops=flops / (spread.median / 1000) / 1e12
        )
