"""The template lane: the pass that makes a template's records, step by step, alone or in a batch with edits."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from instgenie.conditioning import image_ids
from instgenie.keyframe_recorder import KeyframeRecorder
from instgenie.keyframes import Keyframes
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.pipeline.cost import SegmentShape
from instgenie.records import DeviceRecord, PutRecord, StepContext
from instgenie.template import Template
from instgenie_cache import RecordStore


class Lane:
    """Records one template. Its steps do not depend on each other, but are taken in order.

    Attributes:
        template: that is recorded.
        next_step: the first step that was not finished.
        keeps_steps: whether steps that were finished stay readable, on the device, for as long as the lane is there.
        rides: whether edits can compute with a step while it is recorded.
        compute_ms: that its steps took.
    """

    def __init__(self, model: FluxForward, template: Template, put: PutRecord, *, keeps_steps: bool = False) -> None:
        """Args:
        put: takes the records.
        """
        self.template = template
        self.next_step = 0
        # Which steps are kept with keyframes is not known before their last block.
        self.rides = not template.drift
        self.keeps_steps = keeps_steps and self.rides
        self.compute_ms = 0.0
        self._form = template.form(model)
        self._put = put
        self._drifting = KeyframeRecorder(put, template.codec, template.drift) if template.drift else None
        self._ids = image_ids(template.grid, model.device)
        self._steps: dict[int, _LaneStep] = {}

    @property
    def num_bytes(self) -> int:
        """Of device memory that it holds, once it is done."""
        return self._form.step_bytes * (self.template.steps if self.keeps_steps else 1)

    @property
    def done(self) -> bool:
        """Whether all steps were recorded."""
        return self.next_step == self.template.steps

    @property
    def shape(self) -> SegmentShape:
        """What a step computes in a block."""
        return SegmentShape(len(self.template.prompt.states), self._form.tokens, self._form.tokens)

    def segment(self, step: int) -> Segment:
        """The pass that records a step; a second time, where the first came to nothing.

        Args:
            step: the next one, or one after it, where several are recorded in one forward: not with keyframes.
        """
        assert self.next_step <= step < self.template.steps
        assert step == self.next_step or self._drifting is None
        template = self.template
        sigma = template.sigmas[step]
        latents = template.trajectory.at(sigma)
        tokens = latents if template.condition is None else torch.cat([latents, template.condition], dim=-1)
        recorder: KeyframeRecorder | _LaneStep
        if self._drifting is not None:
            recorder = self._drifting
        else:
            recorder = self._steps.setdefault(step, _LaneStep(step, self._put, self.template, keeps=self.keeps_steps))
        prompt = template.prompt
        return Segment(tokens, self._ids, prompt.states, prompt.pooled, sigma, template.guidance, recorder=recorder)

    def context(self, step: int, positions: Tensor) -> StepContext | None:
        """The context of an edit at a step that is being recorded in the same forward, or is kept; else None.

        The edit's segments come after the lane's.

        Args:
            positions: [U] the edit's context tokens in raster order, on the model's device.
        """
        recorded = self._steps.get(step)
        return None if recorded is None else StepContext(recorded, self._form, positions, owns=True)

    def finish_step(self, step: int, compute_ms: float) -> None:
        """A step was computed.

        Args:
            compute_ms: that it took.
        Raises:
            CacheError: the store refused a record of it.
        """
        assert step == self.next_step
        self.next_step += 1
        self.compute_ms += compute_ms
        if self._drifting is not None:
            self._drifting.end_step(step)
        elif not self.keeps_steps:
            del self._steps[step]

    @property
    def keyframes(self) -> Keyframes:
        """The steps that are recorded, once the lane is done."""
        assert self.done
        return (
            Keyframes.every(self.template.steps) if self._drifting is None else self._drifting.keyframes(self.next_step)
        )


class _LaneStep:
    """Takes K and V of one step as a `Recorder`, and gives them to edits, as `Payloads`, just as a store would."""

    def __init__(self, step: int, put: PutRecord, template: Template, *, keeps: bool) -> None:
        self._step, self._put, self._template, self._keeps = step, put, template, keeps
        self._payloads: dict[int, Tensor] = {}
        self._num_put = 0

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`."""
        record = DeviceRecord.of(kv, self._template.codec)
        if not self._keeps:
            self._payloads.clear()
        self._payloads[block] = record.payload
        if block == self._num_put:  # not what was put by a forward that came to nothing
            self._put(self._step, block, record)
            self._num_put += 1

    def __getitem__(self, block: int) -> Tensor:
        """See `Payloads`."""
        return self._payloads[block]


def record_template(
    model: FluxForward, template: Template, store: RecordStore, check: Callable[[], None] = lambda: None
) -> None:
    """Run the template lane by itself and commit its records.

    Args:
        check: called before each step; what it raises ends the lane, and nothing of the template stays.

    Raises:
        CacheError: the store refused the template, before anything was computed, or a record of it; nothing of the
            template stays in it.
    """
    with store.create(template.key, template.form(model).size(template.steps)) as writer:

        def put(row: int, block: int, record: DeviceRecord) -> None:
            writer.put(row, block, record.to_host())

        lane = Lane(model, template, put)
        while not lane.done:
            check()
            started, step = time.perf_counter(), lane.next_step
            model([lane.segment(step)])
            lane.finish_step(step, 1000 * (time.perf_counter() - started))
        writer.commit(lane.compute_ms, steps=len(lane.keyframes.kept), note=lane.keyframes.note)
