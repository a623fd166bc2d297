"""The denoising step: dense, cached and batched steps of an edit are the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.edit_state import EditState, Guidance, advance, edit_segments, start_edit
from instgenie.lane import record_template
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.records import RecordForm, StepContext, payload_tensor, to_record
from instgenie.token_index import token_index
from instgenie.trajectory import Trajectory, seeded_noise
from instgenie_cache import MemoryStore
from tests.instgenie.tiny_flux import (
    CHANNELS,
    random_edit,
    random_prompt,
    random_template,
    relative_error,
    tiny_forward,
    token_masks,
)

PLENTY_BYTES = 1 << 30
HALOS = st.integers(0, 3)


class FakeForward:
    """Stands in for the model: every token's velocity is `velocity` of its input; keeps the segments it was given."""

    def __init__(self, velocity: Callable[[Tensor], Tensor]) -> None:
        self.velocity = velocity
        self.calls: list[list[Segment]] = []

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None]) -> list[Tensor]:
        self.calls.append(list(segments))
        return [self.velocity(segment.tokens) for segment in segments]


def single_prompt(*, distilled: bool = False, seed: int = 50) -> Guidance:
    """Guidance with one prompt."""
    return Guidance((random_prompt(seed),), 2.5 if distilled else 1.0, distilled)


def classifier_free(seed: int = 50, length: int = 3) -> Guidance:
    """Guidance with a prompt and an empty one of another length."""
    return Guidance((random_prompt(seed, length), random_prompt(seed + 1, 2)), 3.0, False)


def form_of(forward: FluxForward, state: EditState) -> RecordForm:
    """What the records of the edit's template look like."""
    return RecordForm(forward.dtype, state.index.num_tokens, forward.num_heads, forward.head_dim, forward.num_blocks)


def open_context(store: MemoryStore, template: str, state: EditState, forward: FluxForward) -> StepContext:
    """The context of the edit's next step; it is there."""
    lease = store.lease(template)
    assert lease is not None
    context = StepContext.open(lease, state.record_step, form_of(forward, state), state.index.context_positions)
    assert context is not None
    return context


def own_record(forward: FluxForward, state: EditState) -> tuple[Tensor, StepContext]:
    """Velocity [L, C] of the edit's dense pass, and the context that the pass recorded."""
    seen: dict[int, KeyValue] = {}

    class Keep:
        def record(self, block: int, kv: KeyValue) -> None:
            seen[block] = KeyValue(kv.key.clone(), kv.value.clone())

    (segment,) = edit_segments(state, state.index.all_active, None)
    (velocity,) = forward([replace(segment, recorder=Keep())])
    payloads = [payload_tensor(to_record(seen[block]).payload) for block in range(forward.num_blocks)]
    return velocity, StepContext(payloads, form_of(forward, state), state.index.context_positions)


@settings(deadline=None, max_examples=25)
@given(token_masks(), HALOS, st.booleans(), st.booleans(), st.integers(0, 3))
def test_cached_pass_equals_the_dense_pass_that_was_recorded(
    mask: Tensor, halo: int, distilled: bool, fill: bool, step: int
) -> None:
    forward = tiny_forward(guidance_embeds=distilled, fill=fill)
    guidance = single_prompt(distilled=distilled)
    template = random_template(grid_of(mask), 4, 1, fill=fill, guidance=None)
    state = random_edit(template, mask, halo=halo, guidance=guidance, seed=2)
    state.step = step
    dense, context = own_record(forward, state)
    (cached,) = forward(edit_segments(state, state.index, context))
    assert cached.shape == (state.index.num_active, CHANNELS)
    assert relative_error(cached, dense[state.index.active_positions]) <= 1e-5


@settings(deadline=None, max_examples=25)
@given(token_masks(), HALOS)
def test_cached_pass_in_bfloat16(mask: Tensor, halo: int) -> None:
    forward = tiny_forward(dtype=torch.bfloat16)
    template = random_template(grid_of(mask), 4, 1, fill=False, guidance=None)
    state = random_edit(template, mask, halo=halo, guidance=single_prompt(), seed=2)
    dense, context = own_record(forward, state)
    (cached,) = forward(edit_segments(state, state.index, context))
    assert relative_error(cached, dense[state.index.active_positions]) <= 1e-2


@settings(deadline=None, max_examples=25)
@given(token_masks(), HALOS)
def test_cached_step_equals_the_dense_step(mask: Tensor, halo: int) -> None:
    forward = tiny_forward()
    template = random_template(grid_of(mask), 4, 1, fill=False, guidance=None)
    dense, cached = (random_edit(template, mask, halo=halo, guidance=single_prompt(), seed=2) for _ in range(2))
    _, context = own_record(forward, dense)
    advance(forward, [dense], [None])
    advance(forward, [cached], [context])
    assert (dense.step, cached.step) == (1, 1)
    assert relative_error(cached.latents, dense.latents) <= 1e-5


@settings(deadline=None, max_examples=10)
@given(token_masks(max_side=5), st.booleans())
def test_context_of_another_pass_is_noticed(mask: Tensor, fill: bool) -> None:
    """Records do reach the result: those of another template change it."""
    forward = tiny_forward(fill=fill)
    template, other = (random_template(grid_of(mask), 4, seed, fill=fill, guidance=None) for seed in (1, 7))
    state = random_edit(template, mask, halo=0, guidance=single_prompt(), seed=2)
    wrong = random_edit(other, mask, halo=0, guidance=single_prompt(), seed=2)
    dense, _ = own_record(forward, state)
    _, context = own_record(forward, wrong)
    (cached,) = forward(edit_segments(state, state.index, context))
    everything_masked = bool(mask.all())
    error = relative_error(cached, dense[state.index.active_positions])
    assert (error <= 1e-5) if everything_masked else (error > 1e-4)


@pytest.mark.parametrize("kind", ["plain", "classifier-free", "distilled"])
@settings(deadline=None, max_examples=10)
@given(st.integers(1, 8), st.integers(1, 8), HALOS)
def test_mask_of_everything_cached_equals_dense(kind: str, rows: int, columns: int, halo: int) -> None:
    forward = tiny_forward(guidance_embeds=kind == "distilled", fill=True)
    guidance = classifier_free() if kind == "classifier-free" else single_prompt(distilled=kind == "distilled")
    template = random_template((rows, columns), 3, 1, fill=True, guidance=2.5 if kind == "distilled" else None)
    mask = torch.ones(rows, columns, dtype=torch.bool)
    store = MemoryStore(PLENTY_BYTES)
    record_template(forward, template, store)
    dense, cached = (random_edit(template, mask, halo=halo, guidance=guidance, seed=2) for _ in range(2))
    while not dense.done:
        advance(forward, [dense], [None])
        advance(forward, [cached], [open_context(store, template.key, cached, forward)])
    assert cached.done
    assert relative_error(cached.latents, dense.latents) <= 1e-5


EDITS = st.lists(
    st.tuples(
        token_masks(max_side=5),
        st.integers(0, 2),  # halo
        st.integers(1, 4),  # steps
        st.sampled_from([0.3, 1.0]),  # strength
        st.sampled_from(["plain", "classifier-free"]),
        st.booleans(),  # cached
        st.integers(1, 4),  # text tokens
    ),
    min_size=2,
    max_size=4,
)


@settings(deadline=None, max_examples=25)
@given(EDITS, st.booleans())
def test_mixed_batch_equals_one_by_one(edits: list[tuple[Tensor, int, int, float, str, bool, int]], fill: bool) -> None:
    forward, store = tiny_forward(fill=fill), MemoryStore(PLENTY_BYTES)
    templates, runs = [], []
    for seed, (mask, halo, steps, strength, kind, _, length) in enumerate(edits):
        template = random_template(grid_of(mask), steps, seed, fill=fill, guidance=None)
        record_template(forward, template, store)
        templates.append(template)
        free = kind == "classifier-free"
        guidance = classifier_free(seed, length) if free else Guidance((random_prompt(seed, length),), 1.0, False)
        runs.append(
            [random_edit(template, mask, halo=halo, guidance=guidance, seed=seed, strength=strength) for _ in "ab"]
        )

    def context(number: int, state: EditState) -> StepContext | None:
        cached = edits[number][5]
        return open_context(store, templates[number].key, state, forward) if cached else None

    together, alone = ([pair[i] for pair in runs] for i in (0, 1))
    while running := [(number, state) for number, state in enumerate(together) if not state.done]:
        advance(forward, [state for _, state in running], [context(*entry) for entry in running])
    for number, state in enumerate(alone):
        while not state.done:
            advance(forward, [state], [context(number, state)])
    for batched, single in zip(together, alone, strict=True):
        assert relative_error(batched.latents, single.latents) <= 1e-4


class OnlyFrom:
    """A context that must not be asked for blocks of the full prefix."""

    def __init__(self, context: StepContext, first: int) -> None:
        self.source, self.first = context, first

    def context(self, block: int) -> KeyValue:
        assert block >= self.first
        return self.source.context(block)


@settings(deadline=None, max_examples=40)
@given(token_masks(), HALOS, st.booleans(), st.integers(0, 4))
def test_full_prefix_with_the_records_of_the_same_pass_equals_the_dense_step(
    mask: Tensor, halo: int, fill: bool, prefix: int
) -> None:
    forward = tiny_forward(fill=fill)
    template = random_template(grid_of(mask), 4, 1, fill=fill, guidance=None)
    dense, mixed = (random_edit(template, mask, halo=halo, guidance=single_prompt(), seed=2) for _ in range(2))
    _, context = own_record(forward, dense)
    advance(forward, [dense], [None])
    blocks: list[int] = []
    advance(forward, [mixed], [OnlyFrom(context, prefix)], [prefix], blocks.append)
    assert relative_error(mixed.latents, dense.latents) <= 1e-5
    assert blocks == [0, 1, 2, 3]


@settings(deadline=None, max_examples=15)
@given(token_masks(max_side=5))
def test_prefix_of_all_blocks_is_the_dense_step_whatever_the_records(mask: Tensor) -> None:
    forward = tiny_forward()
    template, other = (random_template(grid_of(mask), 4, seed, fill=False, guidance=None) for seed in (1, 7))
    dense, full = (random_edit(template, mask, halo=0, guidance=classifier_free(), seed=2) for _ in range(2))
    _, wrong = own_record(forward, random_edit(other, mask, halo=0, guidance=single_prompt(), seed=2))
    advance(forward, [dense], [None])
    advance(forward, [full], [wrong], [forward.num_blocks])
    assert relative_error(full.latents, dense.latents) <= 1e-5


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(token_masks(max_side=5), st.booleans(), st.booleans()), min_size=2, max_size=4), st.data())
def test_mixed_batch_with_a_full_prefix_equals_one_by_one(
    edits: list[tuple[Tensor, bool, bool]], data: st.DataObject
) -> None:
    forward, store = tiny_forward(fill=True), MemoryStore(PLENTY_BYTES)
    prefix = data.draw(st.integers(0, forward.num_blocks))
    together: list[EditState] = []
    alone: list[EditState] = []
    names: list[str] = []
    for seed, (mask, is_free, _) in enumerate(edits):
        template = random_template(grid_of(mask), 2, seed, fill=True, guidance=None)
        record_template(forward, template, store)
        guidance = classifier_free(seed) if is_free else single_prompt(seed=seed)
        for runs in (together, alone):
            runs.append(random_edit(template, mask, halo=0, guidance=guidance, seed=seed))
        names.append(template.key)

    def context(number: int, state: EditState) -> StepContext | None:
        return open_context(store, names[number], state, forward) if edits[number][2] else None

    for _ in range(2):
        advance(forward, together, [context(*entry) for entry in enumerate(together)], [prefix] * len(together))
    for number, state in enumerate(alone):
        for _ in range(2):
            advance(forward, [state], [context(number, state)], [prefix])
    for batched, single in zip(together, alone, strict=True):
        assert relative_error(batched.latents, single.latents) <= 1e-4


def test_mixed_batch_of_distilled_guidances_equals_one_by_one() -> None:
    forward = tiny_forward(guidance_embeds=True)
    template = random_template((3, 4), 2, 0, fill=False, guidance=2.5)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 1:3] = True
    runs = [
        [
            random_edit(template, mask, halo=0, guidance=Guidance((random_prompt(9),), scale, True), seed=1)
            for scale in (1.0, 4.0)
        ]
        for _ in "ab"
    ]
    advance(forward, runs[0], [None, None])
    for state in runs[1]:
        advance(forward, [state], [None])
    for batched, single in zip(*runs, strict=True):
        assert relative_error(batched.latents, single.latents) <= 1e-5
    assert relative_error(runs[0][0].latents, runs[0][1].latents) > 1e-4


@settings(deadline=None, max_examples=25)
@given(token_masks(), HALOS, st.booleans())
def test_only_editable_tokens_leave_the_trajectory(mask: Tensor, halo: int, dense: bool) -> None:
    template = random_template(grid_of(mask), 3, 1, fill=False, guidance=None)
    state = random_edit(template, mask, halo=halo, guidance=single_prompt(), seed=2)
    fake = FakeForward(lambda tokens: torch.full((len(tokens), CHANNELS), 7.0))
    kept, form = ~mask.flatten(), RecordForm(torch.float32, mask.numel(), heads=2, head_dim=16, blocks=0)
    for sigma in state.sigmas[1:]:
        contexts: list[StepContext | None] = [None if dense else StepContext([], form, state.index.context_positions)]
        advance(cast(FluxForward, fake), [state], contexts)
        assert torch.equal(state.latents[kept], template.trajectory.at(sigma)[kept])
    assert state.done
    counts = {len(segments[0].tokens) for segments in fake.calls}
    assert counts == {mask.numel() if dense else state.index.num_active}
    start = seeded_noise(tuple(state.latents.shape), 5002)[~kept]
    torch.testing.assert_close(state.latents[~kept], start - 7.0)


def test_step_equals_the_schedulers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    template = random_template((4, 4), 5, 1, fill=False, guidance=None)
    mask = torch.ones(4, 4, dtype=torch.bool)
    state = random_edit(template, mask, halo=0, guidance=single_prompt(), seed=2)
    scheduler.set_timesteps(sigmas=list(state.sigmas[:-1]), device="cpu")
    fake = FakeForward(lambda tokens: torch.sin(3 * tokens))
    expected = state.latents
    for timestep in scheduler.timesteps:
        expected = scheduler.step(torch.sin(3 * expected), timestep, expected, return_dict=False)[0]
        advance(cast(FluxForward, fake), [state], [None])
        torch.testing.assert_close(state.latents, expected, atol=1e-5, rtol=1e-5)
    assert state.done
    torch.testing.assert_close(
        torch.tensor([1000 * segments[0].timestep for segments in fake.calls]), scheduler.timesteps
    )


def test_guidance_of_one_prompt_takes_its_velocity() -> None:
    velocity = torch.randn(3, CHANNELS, dtype=torch.bfloat16)
    combined = single_prompt(distilled=True).combine([velocity])
    assert combined.dtype == torch.float32
    assert torch.equal(combined, velocity.float())


def test_classifier_free_guidance() -> None:
    prompt, empty = torch.randn(2, 3, CHANNELS).bfloat16()
    combined = classifier_free().combine([prompt, empty])
    assert combined.dtype == torch.float32
    torch.testing.assert_close(combined, empty.float() + 3 * (prompt.float() - empty.float()))
    assert torch.equal(
        Guidance((random_prompt(1), random_prompt(2)), 0.0, False).combine([prompt, empty]), empty.float()
    )


def test_segments_of_an_edit() -> None:
    template = random_template((2, 3), 4, 1, fill=True, guidance=None)
    mask = torch.tensor([[False, True, False], [False, False, False]])
    guidance = classifier_free()
    state = random_edit(template, mask, halo=0, guidance=guidance, seed=2)
    state.step = 2
    segments = edit_segments(state, state.index, None)
    assert [segment.guidance for segment in segments] == [None, None]
    for segment, prompt in zip(segments, guidance.prompts, strict=True):
        assert (segment.text, segment.pooled, segment.timestep) == (prompt.states, prompt.pooled, 0.5)
        assert segment.image_ids.tolist() == [[0, 0, 1]]
        assert state.inputs.condition is not None
        assert torch.equal(segment.tokens, torch.cat([state.latents, state.inputs.condition], dim=1)[1:2])
    (distilled,) = edit_segments(
        random_edit(template, mask, halo=0, guidance=single_prompt(distilled=True), seed=2), state.index, None
    )
    assert distilled.guidance == 2.5


def test_start_mixes_two_noises_and_follows_the_schedule() -> None:
    index = token_index(torch.tensor([[True, False], [False, False]]), 1, 1)
    clean, noise, own = (torch.full((4, CHANNELS), value) for value in (0.0, 1.0, 2.0))
    state = start_edit(index, Trajectory(clean, noise), own, None, single_prompt(), (0.5, 0.25, 0.0), first_step=3)
    assert torch.equal(state.latents[:, 0], torch.tensor([1.0, 0.5, 0.5, 0.5]))
    assert (state.record_step, state.done) == (3, False)
    fake = cast(FluxForward, FakeForward(lambda tokens: torch.zeros(len(tokens), CHANNELS)))
    advance(fake, [state], [None])
    assert (state.record_step, state.done) == (4, False)
    advance(fake, [state], [None])
    assert state.done


def grid_of(mask: Tensor) -> tuple[int, int]:
    """(rows, columns)."""
    return mask.shape[0], mask.shape[1]
