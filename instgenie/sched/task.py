"""What the scheduler knows of the work that it is given. Plain data: no tensors, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# How an edit gets K and V of the tokens that it does not compute: its template's records; the template lane, in the
# same batch; or not at all, since it computes all tokens.
Route = Literal["records", "lane", "dense"]

AGEING_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTask:
    """One edit.

    Attributes:
        tenant: tenants share the device evenly.
        priority: of a tenant's edits, larger goes first; a level is worth a head start of `AGEING_SECONDS`.
        arrived: seconds on the clock of `Scheduler.schedule`.
        deadline: on the same clock; None has no end.
        batch_key: model and adapters: a batch has edits of one key alone.
        steps: to take in all.
        passes: of the model, each step: two where guidance is classifier-free.
        text_tokens: of each pass.
        active_tokens: image tokens of each pass in a masked step.
        total_tokens: image tokens of each pass in a dense one.
        num_bytes: of device memory that it holds from its encoding until it is decoded.
        refresh_steps: of its own steps, those that compute all tokens, whatever its route.
        extrapolated_steps: of its own steps, those that compute nothing, and are taken with the one before.
    """

    id: str
    tenant: str
    priority: int
    arrived: float
    deadline: float | None
    batch_key: str
    steps: int
    passes: int
    text_tokens: int
    active_tokens: int
    total_tokens: int
    num_bytes: int
    refresh_steps: frozenset[int] = frozenset()
    extrapolated_steps: frozenset[int] = frozenset()

    @property
    def order(self) -> float:
        """Its place among its tenant's edits, the smallest first. What waits gains on what comes later."""
        return self.arrived - self.priority * AGEING_SECONDS

    def rows(self, route: Route) -> int:
        """Tokens that a step of the edit computes, over all passes: what its time is in proportion to.

        A refresh computes those of the dense route.
        """
        image_tokens = self.total_tokens if route == "dense" else self.active_tokens
        return self.passes * (self.text_tokens + image_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTask:
    """A template that is recorded, for edits that wait for it or ahead of them.

    Attributes:
        template: its key.
        steps: to record, in this order: 0, 1, ... Lane steps do not depend on each other.
        rows: tokens that one of them computes.
        num_bytes: of device memory that it holds.
        keeps_steps: whether steps that were recorded can be read by edits before the template is complete. Else an edit
            rides along from the lane's first step on, or waits until the template is complete.
        rides: whether edits can take a step in the same batch in which the lane records it; else they wait until the
            template is complete.
    """

    template: str
    tenant: str
    arrived: float
    batch_key: str
    steps: int
    rows: int
    num_bytes: int
    keeps_steps: bool
    rides: bool = True
