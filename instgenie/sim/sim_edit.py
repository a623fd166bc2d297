"""An edit on its way through the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instgenie.balancer.edit_demand import EditDemand
from instgenie.pipeline.cost import SegmentShape
from instgenie.sched.task import EditTask
from instgenie.sim.machine import TemplateRecords, Use
from instgenie.sim.sim_model import SimModel
from instgenie.sim.trace import SimRequest

# What became of an edit's template: its records were in that tier; it was recorded, by this edit or by one beside it;
# all tokens were computed, since another replica recorded it or memory was full; or the mask left nothing to reuse.
Served = Literal["device", "host", "disk", "recorded", "joined", "dense", "full_mask"]


@dataclass(slots=True)
class SimEdit:
    """Attributes:
    masked_seconds, full_seconds: that it adds to a step with its active tokens, and with all.
    arrived, encoded, stepped, done: seconds on the simulation's clock: when it came, was encoded, had taken its last
        step, and its file was there. 0 until then.
    replica: where it was sent.
    served: None until its template was looked up.
    route: as the scheduler has it.
    use: of its template's records; None where it does not read them.
    is_on_device: whether they are there already.
    taken: steps.
    """

    id: str
    demand: EditDemand
    task: EditTask
    template: TemplateRecords
    masked_seconds: float
    full_seconds: float
    arrived: float
    encoded: float = 0.0
    stepped: float = 0.0
    done: float = 0.0
    replica: str = ""
    served: Served | None = None
    route: Literal["records", "lane", "dense"] = "dense"
    use: Use | None = None
    is_on_device: bool = False
    taken: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all steps were taken."""
        return self.taken == self.demand.steps


def make_edit(edit_id: str, request: SimRequest, model: SimModel) -> SimEdit:
    """The edit that a request asks for. A template of another number of steps is another template."""
    steps, passes = request.steps, request.passes
    active_tokens, total_tokens = model.active_tokens(request.mask_ratio), model.canvas_tokens
    shape = SegmentShape(model.text_tokens, active_tokens, total_tokens)
    full = model.costs.segment_seconds(shape.in_full())
    name = f"{request.template}/{steps}"
    demand = EditDemand(
        id=edit_id,
        template=name,
        steps=steps,
        passes=passes,
        text_tokens=model.text_tokens,
        active_tokens=active_tokens,
        total_tokens=total_tokens,
        step_bytes=model.step_bytes,
        cache="off" if active_tokens == total_tokens else "auto",
    )
    task = EditTask(
        id=edit_id,
        tenant="",
        priority=0,
        arrived=request.seconds,
        deadline=None,
        batch_key="",
        steps=steps,
        passes=passes,
        text_tokens=model.text_tokens,
        active_tokens=active_tokens,
        total_tokens=total_tokens,
        num_bytes=1,
    )
    return SimEdit(
        id=edit_id,
        demand=demand,
        task=task,
        template=TemplateRecords(name, steps, steps * model.step_bytes, 1000 * steps * full),
        masked_seconds=passes * model.costs.segment_seconds(shape),
        full_seconds=passes * full,
        arrived=request.seconds,
    )
