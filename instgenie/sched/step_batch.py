"""What the scheduler has done next, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from instgenie.sched.task import LaneTask, Route

StageKind = Literal["encode", "preview", "decode"]
EndReason = Literal["cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class StageItem:
    """Work of an edit on the device that is no denoising step.

    Attributes:
        kind: encode: prompt and picture become tensors. preview, decode: latents become a picture.
    """

    kind: StageKind
    edit: str


@dataclass(frozen=True, slots=True)
class LaneSteps:
    """Steps of a template that are recorded in a batch."""

    template: str
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """An edit that the scheduler gave up: nothing more is done for it."""

    edit: str
    reason: EndReason


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What to do now: end edits, and then do a piece of stage work, or run one denoising step, or neither.

    Attributes:
        edits: that take their next step, all in one forward with the lanes' steps.
        stage: None where there is a step. `schedule` is to be called as soon as it is done, which tells its time.
        rows: tokens that the step computes.
    """

    edits: tuple[str, ...] = ()
    lanes: tuple[LaneSteps, ...] = ()
    stage: StageItem | None = None
    ended: tuple[Ended, ...] = ()
    rows: int = 0

    @property
    def has_step(self) -> bool:
        """Whether there is a denoising step to run."""
        return bool(self.edits or self.lanes)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.has_step or self.stage or self.ended)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step. What it was not told otherwise about went as planned.

    Attributes:
        seconds: that it took; 0 where nothing was computed.
        stuck: edits that took no step, and shall try again: their records were lost on the way.
        rerouted: edits that go on another way: what their records or their lane were to give has to be computed.
        failed: edits that are over, because something of their own went wrong.
        failed_lanes: templates whose recording is over; edits that ride with them are in `rerouted`.
        leaps: steps that edits took besides, without computing them.
    """

    seconds: float = 0.0
    stuck: frozenset[str] = frozenset()
    rerouted: Mapping[str, Route] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    failed_lanes: frozenset[str] = frozenset()
    leaps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """An edit that was encoded, and whose template was looked up: it can run.

    Attributes:
        template: whose records, or whose lane, serve it.
        first_step: the template's step that its first step needs.
        lane: to begin for it; None where its route is none, or its template's lane runs already.
    """

    edit: str
    route: Route
    template: str
    first_step: int = 0
    lane: LaneTask | None = None
