"""Requests that run together, one step of all of them at a time, and what each of them would be alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from torch import Tensor

from instgenie.batch_step import LaneStep, run_step
from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.keyframes import Keyframes
from instgenie.lane import Lane
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.records import DeviceRecord
from instgenie.request import EditRequest
from instgenie.running_edit import RunningEdit
from instgenie_cache import CacheError, MemoryStore, Record, TemplateLease, TemplateSize, TemplateWriter
from tests.instgenie.edits import (
    PLENTY_BYTES,
    TappedLease,
    TappedStore,
    WatchedForward,
    a_request,
    an_editor,
    random_picture,
)

Service = Literal["dense", "records", "lane"]


class HookedForward(WatchedForward):
    """A watched forward that calls `before` with the segments of each pass, and `on_block` after each block.

    What either raises, the pass raises.
    """

    def __init__(self, forward: FluxForward) -> None:
        super().__init__(forward)
        self.before: Callable[[Sequence[Segment]], None] = lambda _: None
        self.on_block: Callable[[int], None] = lambda _: None

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        self.before(segments)

        def both(block: int) -> None:
            on_block(block)
            self.on_block(block)

        return super().__call__(segments, both)


class CountedLease(TappedLease):
    """A lease of a `CountedStore`."""

    def __init__(self, store: CountedStore, template: str, lease: TemplateLease) -> None:
        super().__init__(store, template, lease)
        self.store = store
        store.leases.add(self)

    @property
    def is_valid(self) -> bool:
        return super().is_valid and self not in self.store.lost

    def step(self, step: int) -> Sequence[Record] | None:
        if self in self.store.lost:
            raise CacheError("the lease was lost")
        return super().step(step)

    def release(self) -> None:
        self.store.leases.discard(self)
        super().release()


class CountedStore(TappedStore):
    """Knows what is open of it.

    Attributes:
        leases: that were not released.
        lost: leases that are not valid any more.
        writers: templates that are being written.
        puts: (step, block) of every record that was put.
        on_put, on_commit: called before a record is put or a template is committed; what they raise the writer raises,
            which is aborted by that.
    """

    def __init__(self, budget_bytes: int = PLENTY_BYTES) -> None:
        super().__init__(budget_bytes)
        self.leases: set[CountedLease] = set()
        self.lost: set[CountedLease] = set()
        self.writers: list[str] = []
        self.puts: list[tuple[int, int]] = []
        self.on_put: Callable[[], None] = lambda: None
        self.on_commit: Callable[[], None] = lambda: None

    def lease(self, template: str) -> TemplateLease | None:
        lease = MemoryStore.lease(self, template)
        return None if lease is None else CountedLease(self, template, lease)

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        writer = super().create(template, size)
        put, commit, abort, is_open = writer.put, writer.commit, writer.abort, [True]
        self.writers.append(template)

        def end() -> None:
            if is_open:
                is_open.clear()
                self.writers.remove(template)

        def put_counted(step: int, block: int, record: Record) -> None:
            self._do(self.on_put, abort_counted)
            self.puts.append((step, block))
            put(step, block, record)

        def commit_counted(*values: Any, **settings: Any) -> None:
            self._do(self.on_commit, abort_counted)
            commit(*values, **settings)
            end()

        def abort_counted() -> None:
            abort()
            end()

        writer.put, writer.commit, writer.abort = put_counted, commit_counted, abort_counted  # type: ignore[method-assign]
        return writer

    def _do(self, act: Callable[[], None], abort: Callable[[], None]) -> None:
        try:
            act()
        except BaseException:
            abort()
            raise

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is open."""
        return not self.leases and not self.writers


@dataclass(frozen=True, kw_only=True)
class Rider:
    """A request of a batch.

    Attributes:
        picture: seed of it: those of one seed share a template, where steps are as many.
        box: of the mask: left, top, width and height in pixels.
        service: what gives it K and V of its context. lane: its template is recorded while it runs.
        joins: steps of the batch before its first one.
        leaves: steps after which it is cancelled; None stays.
    """

    picture: int = 0
    box: tuple[int, int, int, int] = (20, 18, 20, 12)
    prompt: str = "a red apple"
    seed: int = 0
    steps: int = 4
    guidance: float | None = None
    strength: float = 1.0
    halo: int = 0
    refreshes: int = 0
    step_cache: int = 1
    service: Service = "records"
    joins: int = 0
    leaves: int | None = None

    @property
    def request(self) -> EditRequest:
        """What is asked for."""
        left, top, width, height = self.box
        mask = np.zeros((64, 64), bool)
        mask[top : top + height, left : left + width] = True
        return a_request(
            random_picture(seed=self.picture),
            mask=mask,
            prompt=self.prompt,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            strength=self.strength,
            halo=self.halo,
            refreshes=self.refreshes,
            step_cache=self.step_cache,
            cached=self.service != "dense",
        )


@st.composite
def boxes(draw: Callable[[st.SearchStrategy[int]], int]) -> tuple[int, int, int, int]:
    """Boxes in a picture of 64x64, all of it sometimes."""
    left, top = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    return left, top, draw(st.integers(1, 64 - left)), draw(st.integers(1, 64 - top))


def riders() -> st.SearchStrategy[Rider]:
    """Any request."""
    return st.builds(
        Rider,
        picture=st.integers(0, 2),
        box=boxes() | st.just((0, 0, 64, 64)),
        prompt=st.sampled_from(["", "a pear", "the sea at night"]),
        seed=st.integers(0, 3),
        steps=st.integers(1, 6),
        guidance=st.sampled_from([None, 0.0, 1.0, 4.5]),
        strength=st.sampled_from([0.3, 0.6, 1.0]),
        halo=st.integers(0, 2),
        refreshes=st.integers(0, 4),
        step_cache=st.sampled_from([1, 1, 2, 3]),
        service=st.sampled_from(["dense", "records", "lane"]),
        joins=st.integers(0, 5),
        leaves=st.none() | st.integers(1, 4),
    )


def latents_alone(checkpoint: Checkpoint, riders: Sequence[Rider], codec: CodecName) -> list[dict[int, Tensor]]:
    """Latents [L, C] of each request by how many steps it has taken, where nothing else runs."""
    editor = an_editor(checkpoint, codec=codec)
    found = []
    for rider in riders:
        with editor.start(rider.request) as running:
            latents = {}
            while not running.done:
                running.advance()
                latents[running.step] = running.state.latents
        found.append(latents)
    editor.close()
    return found


class BatchDriver:
    """Takes steps of riders as a replica would, as simply as can be: all that can go take one, every lane, too.

    Attributes:
        latents: of each rider, by how many steps it has taken.
        edits: of riders that have joined, and are not over.
        num_recorded: steps that lanes recorded.
    """

    def __init__(
        self, checkpoint: Checkpoint, riders: Sequence[Rider], codec: CodecName, *, keeps_steps: bool, lane_steps: int
    ) -> None:
        """Args:
        keeps_steps: whether lanes keep their steps; else who comes late waits until the template is complete.
        lane_steps: that a lane without edits takes at a time.
        """
        self.editor: Editor = an_editor(checkpoint, codec=codec)
        self.latents: list[dict[int, Tensor]] = [{} for _ in riders]
        self.edits: dict[int, RunningEdit] = {}
        self.num_recorded = 0
        self._forward, self._riders = checkpoint.forward, riders
        self._keeps_steps, self._lane_steps = keeps_steps, lane_steps
        self._lanes: dict[str, tuple[Lane, TemplateWriter]] = {}
        self._tick = 0
        for rider in riders:
            if rider.service == "records":
                self.editor.shelf.record(self.encoded(rider).template)

    def encoded(self, rider: Rider) -> RunningEdit:
        """Its edit, before the first step."""
        return self.editor.encode(self.editor.prepare(rider.request))

    def run(self) -> None:
        """To the end of all riders and lanes."""
        with ExitStack() as stack:
            while self._tick <= max(rider.joins for rider in self._riders) or self.edits or self._lanes:
                self._join(stack)
                self._step()
                self._leave()
                self._tick += 1
        self.editor.close()

    def _join(self, stack: ExitStack) -> None:
        for number, rider in enumerate(self._riders):
            if rider.joins == self._tick:
                edit = self.edits[number] = stack.enter_context(self.encoded(rider))
                if edit.is_cached:
                    edit.serve_from(self.editor.shelf.read(edit) or self._lane(edit))

    def _lane(self, edit: RunningEdit) -> Lane:
        key = edit.template_key
        if key not in self._lanes:
            template, forward = edit.template, self._forward
            writer = self.editor.store.create(key, template.form(forward).size(template.steps))
            lane = Lane(forward, template, partial(put_record, writer), keeps_steps=self._keeps_steps)
            self._lanes[key] = lane, writer
        return self._lanes[key][0]

    def _step(self) -> None:
        recording: list[LaneStep] = []
        for lane, _ in self._lanes.values():
            users = [edit for edit in self.edits.values() if edit.lane is lane]
            ahead = min((edit.state.record_step for edit in users), default=lane.template.steps)
            most = 1 if ahead <= lane.next_step else min(self._lane_steps, ahead - lane.next_step)
            stop = min(lane.next_step + most, lane.template.steps)
            recording += [LaneStep(lane, step) for step in range(lane.next_step, stop)]
        going = {n: edit for n, edit in self.edits.items() if self._can_go(edit, recording)}
        if going or recording:
            outcome = run_step(self._forward, list(going.values()), recording)
            assert not outcome.stuck
        for number, edit in going.items():
            self.latents[number][edit.step] = edit.state.latents
        self.num_recorded += len(recording)

    def _can_go(self, edit: RunningEdit, recording: Sequence[LaneStep]) -> bool:
        lane, step = edit.lane, edit.state.record_step
        if lane is None:
            return True
        return LaneStep(lane, step) in recording or (lane.keeps_steps and step < lane.next_step)

    def _leave(self) -> None:
        for number, edit in list(self.edits.items()):
            if edit.done or edit.step >= (self._riders[number].leaves or edit.steps):
                edit.close()
                del self.edits[number]
        for key, (lane, writer) in list(self._lanes.items()):
            if lane.done:
                writer.commit(lane.compute_ms, note=Keyframes.every(lane.template.steps).note)
                del self._lanes[key]
                for edit in self.edits.values():
                    if edit.lane is lane and not self._keeps_steps:
                        reader = self.editor.shelf.read(edit)
                        assert reader is not None
                        edit.serve_from(reader)


def put_record(writer: TemplateWriter, step: int, block: int, record: DeviceRecord) -> None:
    """Put it as a queue would."""
    writer.put(step, block, record.to_host())
