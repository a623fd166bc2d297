"""One edit on its way through the denoising steps, and the step itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from instgenie.conditioning import image_ids
from instgenie.correction import Correction, Refresh
from instgenie.fixed_inputs import FixedInputs
from instgenie.known_velocity import KnownVelocity, extrapolate
from instgenie.models.flux import FluxForward
from instgenie.models.segment import ContextSource, Recorder, Segment
from instgenie.pipeline.cost import SegmentShape
from instgenie.text import Prompt
from instgenie.token_index import TokenIndex
from instgenie.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Guidance:
    """How prompts steer: `prompts` is (prompt,) or, for classifier-free guidance, (prompt, empty prompt).

    Attributes:
        scale: weight of the prompt; classifier-free guidance v = v_empty + scale * (v_prompt - v_empty), or the
            input of a guidance-distilled model.
        distilled: whether the model takes `scale` as an input.
    """

    prompts: tuple[Prompt, ...]
    scale: float
    distilled: bool

    def combine(self, velocities: Sequence[Tensor]) -> Tensor:
        """The steered velocity from those of `prompts`, [M, C] float32."""
        first = velocities[0].float()
        if len(velocities) == 1:
            return first
        empty = velocities[1].float()
        return empty + self.scale * (first - empty)


@dataclass(slots=True, eq=False)
class EditState:
    """What an edit carries from step to step; its tensors are on the model's device.

    Attributes:
        index: the edit's tokens.
        trajectory: the template's, with the edit's own noise on editable tokens.
        inputs: what the model takes beside the latents.
        latents: [L, C] float32; only editable tokens differ from the trajectory.
        sigmas: noise levels of the remaining schedule, `step` of them done.
        pointed_at: [E, C] the clean latents of editable tokens that the last step's velocity points at; None before
            the first.
        first_step: number of sigmas[0] in the full schedule: records are filed under full-schedule steps.
        correction: of its template's records, from its last refresh.
        extrapolated: steps that `leap` takes.
        known: the velocities that were computed last, two at most, none from before the last refresh; none at all where
            no step is extrapolated.
    """

    index: TokenIndex
    trajectory: Trajectory
    inputs: FixedInputs
    guidance: Guidance
    sigmas: tuple[float, ...]
    latents: Tensor
    pointed_at: Tensor | None = None
    first_step: int = 0
    step: int = 0
    correction: Correction | None = None
    extrapolated: frozenset[int] = frozenset()
    known: tuple[KnownVelocity, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.step >= len(self.sigmas) - 1

    @property
    def predicted(self) -> Tensor:
        """[L, C] clean latents, the template's but for `pointed_at`: put together when asked for, as previews do."""
        clean = self.trajectory.clean
        return clean if self.pointed_at is None else clean.index_copy(0, self.index.editable_positions, self.pointed_at)

    @property
    def record_step(self) -> int:
        """The step in the full schedule that comes next."""
        return self.first_step + self.step


def start_edit(
    index: TokenIndex,
    template: Trajectory,
    noise: Tensor,
    condition: Tensor | None,
    guidance: Guidance,
    sigmas: tuple[float, ...],
    first_step: int = 0,
) -> EditState:
    """An edit at its first noise level; all tensors are on the model's device.

    Args:
        template: the template's trajectory, which context tokens follow.
        noise: [L, C] the edit's own noise, used on editable tokens.
        condition: [L, K] fill-conditioning channels, or None for models without.
    """
    trajectory = Trajectory(template.clean, torch.where(index.editable[:, None], noise, template.noise))
    inputs = FixedInputs(index, image_ids(index.grid, noise.device), condition)
    latents = trajectory.at(sigmas[0])
    return EditState(index, trajectory, inputs, guidance, sigmas, latents, first_step=first_step)


def segment_shapes(state: EditState) -> list[SegmentShape]:
    """What the edit's segments compute in a block: one per prompt of its guidance."""
    index = state.index
    return [SegmentShape(len(p.states), index.num_active, index.num_tokens) for p in state.guidance.prompts]


def edit_segments(
    state: EditState,
    index: TokenIndex,
    context: ContextSource | None,
    full_blocks: int = 0,
    refresh: Refresh | None = None,
) -> list[Segment]:
    """The passes that the edit's next step needs: one per prompt of its guidance.

    Args:
        index: the edit's own, or that of all its tokens.
        context: the template's; what a refresh found is added to it.
        full_blocks: the full prefix: so many blocks, the first ones, compute all tokens and need no context.
        refresh: takes K and V of a step that computes all tokens.
    """
    inputs = state.inputs
    tokens, ids, condition, active = state.latents, inputs.ids, inputs.condition, None
    if index.num_active == index.num_tokens:
        context, full_blocks = None, 0
    elif full_blocks:
        active = index.active_positions
    else:
        tokens = tokens.index_select(0, index.active_positions)
        ids, condition = inputs.active_ids, inputs.active_condition
    if condition is not None:
        tokens = torch.cat([tokens, condition], dim=-1)
    guidance = state.guidance
    scale = guidance.scale if guidance.distilled else None
    sigma = state.sigmas[state.step]
    contexts: Sequence[ContextSource | None] = [context] * len(guidance.prompts)
    if context is not None and state.correction is not None:
        contexts = state.correction.applied(context, state.step)
    recorders: Sequence[Recorder | None] = [None] * len(contexts) if refresh is None else refresh.recorders
    return [
        Segment(tokens, ids, p.states, p.pooled, sigma, scale, source, recorder, full_blocks, active)
        for p, source, recorder in zip(guidance.prompts, contexts, recorders, strict=True)
    ]


def advance(
    model: FluxForward,
    states: Sequence[EditState],
    contexts: Sequence[ContextSource | None],
    full_blocks: Sequence[int] | None = None,
    on_block: Callable[[int], None] = lambda _: None,
    lanes: Sequence[Segment] = (),
    refreshes: Sequence[Refresh | None] | None = None,
) -> None:
    """Take one denoising step of every edit, in one packed forward. Where it raises, no edit has moved.

    Args:
        contexts: each edit's context at this step; None computes all of its tokens.
        full_blocks: each edit's full prefix: so many blocks, the first ones, compute all of its tokens. None is none.
        on_block: see `FluxForward`.
        lanes: what is computed besides, before the edits of each block: contexts may be what these record.
        refreshes: each edit's, where it computes all tokens and notes what that changes in the context. None is none.
    """
    segments: list[Segment] = [*lanes]
    indexes = []
    prefixes, refreshes = full_blocks or [0] * len(states), refreshes or [None] * len(states)
    for state, context, prefix, refresh in zip(states, contexts, prefixes, refreshes, strict=True):
        index = state.index if context is not None else state.index.all_active
        indexes.append(index)
        segments += edit_segments(state, index, context, prefix, refresh)
    velocities = islice(model(segments, on_block), len(lanes), None)
    for state, index, refresh in zip(states, indexes, refreshes, strict=True):
        own = list(islice(velocities, len(state.guidance.prompts)))
        if refresh is not None:
            state.correction = refresh.correction(state.step)
        velocity = state.guidance.combine(own).index_select(0, index.editable_among_active)
        if state.extrapolated:
            state.known = (*state.known[-1:], KnownVelocity(state.step, velocity))
        _update(state, velocity)


def leap(state: EditState) -> int:
    """Take the steps that come next and are not to be computed: how many."""
    leaps = 0
    while state.step in state.extrapolated:
        _update(state, extrapolate(state.known, state.step))
        leaps += 1
    return leaps


def _update(state: EditState, velocity: Tensor) -> None:
    """One Euler step on the editable tokens; the others go on along the trajectory.

    Args:
        velocity: [E, C] float32, of the editable tokens.
    """
    sigma, following = state.sigmas[state.step], state.sigmas[state.step + 1]
    moved = state.trajectory.at(following)
    positions = state.index.editable_positions
    start = state.latents.index_select(0, positions)
    moved.index_copy_(0, positions, start + (following - sigma) * velocity)
    state.pointed_at = start - sigma * velocity
    state.latents = moved
    state.step += 1
