"""Denoising steps of a batch by where the records are: on the device, in page-locked memory, on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
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
from instgenie.batch_step import BatchOutcome, run_step
from instgenie.checkpoint import Checkpoint
from instgenie.conditioning import image_ids
from instgenie.editor import Editor
from instgenie.host import await_device
from instgenie.pipeline.cost import CostModel
from instgenie.pipeline.planner import StepPlan
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicyName
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.records import RecordForm
from instgenie.running_edit import RunningEdit
from instgenie_cache.stores.build_store import StoreSettings, build_store

Source = Literal["device", "host", "disk"]

_ROUNDING_BYTES = 64 << 20  # of records in a store
_MEMORY_SYSTEMS = ("tmpfs", "ramfs")


class MeasureError(Exception):
    """What was to be timed is not what happened; the message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKind:
    """Steps that are timed.

    Attributes:
        system: diffusers; ours, dense; ours; ours, compiled.
        share: of the picture, that is masked; 1 where all tokens are computed.
        source: of the records, None where none are read.
        policy: that plans steps; None takes every record.
    """

    system: str
    batch: int
    share: float = 1.0
    source: Source | None = None
    policy: PlanPolicyName | None = None

    def __str__(self) -> str:
        told = [self.system, self.source and f"records on {self.source}", self.policy, f"batch of {self.batch}"]
        return ", ".join(filter(None, [*told, f"{self.share:.0%} masked"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What steps took.

    Attributes:
        active: share of the image tokens that is computed.
        ms: of the batch's step, without the first one: nothing could be loaded ahead of it.
        tflops: 10^12 operations a second, those of full blocks that only fill a wait not counted.
        loaded_gb_per_second: 10^9 bytes of records a second that the plans take from the source; 0 for the device.
        stall_share: of the time, waiting for records.
        full_blocks: computed on all tokens, a step.
    """

    active: float
    ms: Spread
    tflops: float
    loaded_gb_per_second: float = 0.0
    stall_share: float = 0.0
    full_blocks: float = 0.0


# Steps of a kind, and what times them.
Work = tuple[StepKind, Callable[[], StepFigures]]


class StepBench:
    """Times steps of a model with random weights."""

    def __init__(self, checkpoint: Checkpoint, name: str, folder: Path, costs: CostModel | None = None) -> None:
        """Args:
        checkpoint: with steps of an edit, the first of which does not count.
        name: of its architecture.
        folder: for records on disk.
        costs: that plans go by, where there are any.
        """
        self.checkpoint = checkpoint
        self._name, self._folder, self._costs = name, folder, costs
        self._tokens = ARCHITECTURES[name].side ** 2
        forward = checkpoint.forward
        form = RecordForm(forward.dtype, self._tokens, forward.num_heads, forward.head_dim, forward.num_blocks)
        self._template_bytes = form.size(checkpoint.settings.steps).num_bytes

    def without_records(self, batches: Sequence[int]) -> Iterator[Work]:
        """Of diffusers, and of ours with all tokens."""
        for batch in batches:
            yield StepKind(system="diffusers", batch=batch), partial(self._diffusers, batch)
            with self._editor() as editor:
                kind = StepKind(system="ours, dense", batch=batch)
                yield kind, partial(self._edits, editor, kind, None)

    def on_device(self, batches: Sequence[int], shares: Sequence[float], system: str = "ours") -> Iterator[Work]:
        """Records in the device's memory."""
        with self._editor(device_bytes=2 * self._template_bytes) as editor:
            self._record(editor)
            for share in shares:
                for batch in batches:
                    kind = StepKind(system=system, batch=batch, share=share, source="device")
                    yield kind, partial(self._edits, editor, kind, None)

    def from_host(
        self, batches: Sequence[int], shares: Sequence[float], policies: Sequence[PlanPolicyName]
    ) -> Iterator[Work]:
        """Records in the host's memory, page-locked where there is a device to copy to."""
        with self._editor() as editor:
            self._record(editor)
            costs = self._taught(editor, "host")
            for share in shares:
                for batch in batches:
                    for policy in policies:
                        kind = StepKind(system="ours", batch=batch, share=share, source="host", policy=policy)
                        yield kind, partial(self._edits, editor, kind, costs)

    def from_disk(
        self, batches: Sequence[int], shares: Sequence[float], policies: Sequence[PlanPolicyName]
    ) -> Iterator[Work]:
        """Records on disk, none of them in the system's memory; a store for each, as after a restart."""
        with self._editor(folder=self._folder) as editor:
            self._record(editor)
        with self._editor(folder=self._folder) as editor:
            forget_pages(self._folder)
            costs = self._taught(editor, "disk")
        for share in shares:
            for batch in batches:
                for policy in policies:
                    kind = StepKind(system="ours", batch=batch, share=share, source="disk", policy=policy)
                    yield kind, partial(self._edits_from_disk, kind, costs)

    def _diffusers(self, batch: int) -> StepFigures:
        of, forward = ARCHITECTURES[self._name], self.checkpoint.forward
        drawn = partial(torch.randn, device=forward.device, dtype=forward.dtype)
        given = {
            "hidden_states": drawn(batch, self._tokens, of.channels),
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
        return StepFigures(active=1.0, ms=Spread.of(ms), tflops=self._tflops(batch, 1.0, ms))

    @contextmanager
    def _editor(self, device_bytes: int = 0, folder: Path | None = None) -> Iterator[Editor]:
        """Over a store that has room for two templates: it reads ahead as far as half of that."""
        room = 2 * self._template_bytes + _ROUNDING_BYTES
        settings = StoreSettings(host_bytes=room, folder=folder, disk_bytes=room if folder else 0)
        editor = Editor(self.checkpoint, build_store(settings), device_cache_bytes=device_bytes)
        try:
            yield editor
        finally:
            editor.close()
            if self.checkpoint.forward.device.type == "cuda":
                torch.cuda.empty_cache()  # the loader's buffers are a share of what is free

    def _record(self, editor: Editor) -> None:
        """Have the template in the store, and as near to the device as it gets."""
        for _ in range(2):
            editor.edit(random_request(self._name, 0.05))
            editor.flush()

    def _taught(self, editor: Editor, source: Source) -> CostModel | None:
        """Costs that know what loads from there take, by steps that are not counted."""
        if self._costs is None:
            return None
        costs = CostModel.from_dict(self._costs.to_dict())
        kind = StepKind(system="ours", batch=1, share=0.05, source=source, policy="always_cached")
        self._take(editor, kind, StepPlanner(costs, PLAN_POLICIES["always_cached"]))
        return costs

    def _edits_from_disk(self, kind: StepKind, costs: CostModel | None) -> StepFigures:
        system = file_system(self._folder)
        if system in _MEMORY_SYSTEMS:
            raise MeasureError(f"{self._folder} is in memory ({system}): --folder of a disk")
        with self._editor(folder=self._folder) as editor:
            forget_pages(self._folder)
            return self._edits(editor, kind, costs)

    def _edits(self, editor: Editor, kind: StepKind, costs: CostModel | None) -> StepFigures:
        """A batch of edits of one template, from their first step to their last."""
        planner = None
        if kind.policy is not None and costs is not None:  # a copy: what it learns is not the next ones'
            planner = StepPlanner(CostModel.from_dict(costs.to_dict()), PLAN_POLICIES[kind.policy])
        outcomes, edits = self._take(editor, kind, planner)
        active = edits[0].timings.tokens_active / self._tokens
        counted = outcomes[1:]
        ms = [outcome.ms for outcome in counted]
        figures = StepFigures(
            active=active,
            ms=Spread.of(ms),
            tflops=self._tflops(kind.batch, active, ms),
            stall_share=stall_share(counted),
        )
        if kind.source in (None, "device"):
            return figures
        # What a batch shares is loaded from the first block on that one of its edits takes from a record.
        plans = zip(*([taken.plan for taken in edit.taken[1:]] for edit in edits), strict=True)
        full_blocks = [fewest_full_blocks(of_step) for of_step in plans]
        read = 1 - fmean(full_blocks) / self.checkpoint.forward.num_blocks
        step_bytes = self._template_bytes / self.checkpoint.settings.steps
        return replace(
            figures,
            full_blocks=fmean(full_blocks),
            loaded_gb_per_second=read * step_bytes / (median(ms) / 1000) / 1e9,
        )

    def _take(
        self, editor: Editor, kind: StepKind, planner: StepPlanner | None
    ) -> tuple[list[BatchOutcome], list[RunningEdit]]:
        """All steps of a batch.

        Raises:
            MeasureError: they were not served from where they should have been.
        """
        editor.plan_steps(planner)
        forward = editor.checkpoint.forward
        share = 0.5 if kind.source is None else kind.share
        outcomes: list[BatchOutcome] = []
        with ExitStack() as stack:
            edits = []
            for number in range(kind.batch):
                request = replace(random_request(self._name, share, number), cached=kind.source is not None)
                edits.append(stack.enter_context(editor.start(request)))
            if forward.device.type == "cuda" and kind.source == "host" and not editor.shelf.page_locked_bytes:
                raise MeasureError("the host's memory cannot be page-locked: is cupy installed?")
            while not all(edit.done for edit in edits):
                outcomes.append(run_step(forward, edits, planner=planner))
                if outcomes[-1].stuck:
                    raise MeasureError(f"{len(outcomes[-1].stuck)} edits lost their template at step {len(outcomes)}")
        for edit in edits:
            served = edit.timings.tier, edit.timings.dense_steps
            wanted = kind.source, edit.steps if kind.source is None else 0
            if served != wanted:
                raise MeasureError(f"records and dense steps were {served}, not {wanted}")
        return outcomes, edits

    def _tflops(self, batch: int, active: float, ms: Sequence[float]) -> float:
        config = self.checkpoint.forward.transformer.config
        text = ARCHITECTURES[self._name].text_tokens
        flops = batch * pass_flops(config, text, round(active * self._tokens), self._tokens)
        return flops / (median(ms) / 1000) / 1e12


def stall_share(outcomes: Sequence[BatchOutcome]) -> float:
    """Of the steps' time, what they waited for records. Edits that share them wait together: the first one does."""
    return sum(outcome.stall_ms for outcome in outcomes) / sum(outcome.ms for outcome in outcomes)


def fewest_full_blocks(plans: Sequence[StepPlan | None]) -> int:
    """Of a step's plans, one for each edit; without a plan none is in full."""
    return min(0 if plan is None else plan.full_prefix for plan in plans)


def file_system(folder: Path) -> str:
    """Its type, as the system names it."""
    found = subprocess.run(("stat", "--file-system", "--format=%T", folder), capture_output=True, text=True, check=True)
    return found.stdout.strip()
