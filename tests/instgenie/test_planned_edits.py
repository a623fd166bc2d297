"""Edits whose steps are planned: what is read, what is computed, and what comes out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from instgenie.batch_step import run_step
from instgenie.checkpoint import Checkpoint
from instgenie.editor import Editor
from instgenie.pipeline.cost import BlockFit, CostModel, LoadFit
from instgenie.pipeline.guard import PlanGuard
from instgenie.pipeline.planner import BlockCosts, LoaderState
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicy
from instgenie.pipeline.step_planner import StepPlanner
from instgenie_cache import CacheError, TemplateSize
from instgenie_cache.policies import make_policy
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.host_tier import HostTier
from instgenie_cache.tiers.pages import Extent
from tests.instgenie.edits import a_request, an_editor, pixels, random_picture, watched

MIB = 1 << 20
SLOW, FAST = LoadFit(0.0, 1.0), LoadFit(0.0, 1e-12)  # ms a byte


class SpiedTier:
    """A disk tier that notes which blocks are read, and can be made to fail."""

    def __init__(self, tier: DiskTier) -> None:
        self._tier = tier
        self.reads: list[tuple[int, range | None]] = []
        self.fail_at: int | None = None  # number of the read that fails
        self.lose_at: int | None = None  # or that finds nothing
        self._numbers = count()

    def __getattr__(self, name: str) -> object:
        return getattr(self._tier, name)

    def read_step(self, template: str, size: TemplateSize, step: int, slab: Slab, blocks: range | None = None) -> bool:
        number = next(self._numbers)
        self.reads.append((step, blocks))
        if number == self.fail_at:
            raise CacheError("the disk is on fire")
        return number != self.lose_at and self._tier.read_step(template, size, step, slab, blocks)


def costs_of(checkpoint: Checkpoint, disk: LoadFit, *, full_is_dear: bool = True) -> CostModel:
    """Blocks that cost a ms plus a ms an active token; a disk that costs so much."""
    forward = checkpoint.forward
    fit = BlockFit(1.0, 1.0 if full_is_dear else 0.0, 0.0, 0.0, 1.0, 9)
    kinds = ["double"] * forward.num_double + ["single"] * (forward.num_blocks - forward.num_double)
    loads = {"host": LoadFit(0.0, 0.0), "disk": disk, "object": disk}
    return CostModel(kinds, {"double": fit, "single": fit}, BlockFit(0.0, 0.0, 0.0, 0.0, 1.0, 9), loads)  # type: ignore[arg-type]


def prefix_of(length: int) -> PlanPolicy:
    """A policy that always computes so many blocks in full."""
    return lambda costs, loader: tuple(block < length for block in range(len(costs)))  # noqa: ARG005


@contextmanager
def disk_editor(checkpoint: Checkpoint, folder: Path, **settings: object) -> Iterator[tuple[Editor, SpiedTier]]:
    """An editor whose records are on disk alone when it begins."""
    tier = SpiedTier(DiskTier.open(folder, 64 * MIB, "never"))
    store = TieredStore(HostTier(Arena.create(64 * MIB), make_policy("lru")), [tier], make_policy("lru"))  # type: ignore[list-item]
    editor = an_editor(checkpoint, store, **settings)
    try:
        yield editor, tier
    finally:
        editor.close()


@pytest.fixture
def recorded(builtin_kind: Checkpoint, tmp_path: Path) -> Path:
    """A folder with the records of the request's template."""
    with disk_editor(builtin_kind, tmp_path / "records") as (editor, _):
        editor.edit(a_request())
    return tmp_path / "records"


def test_blocks_of_the_full_prefix_are_not_read(builtin_kind: Checkpoint, recorded: Path) -> None:
    blocks = builtin_kind.forward.num_blocks
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), prefix_of(1)))
        with editor.start(a_request()) as running:
            while not running.done:
                running.advance()
            assert (running.timings.cache, running.timings.tier, running.timings.dense_steps) == ("hit", "disk", 0)
            assert running.timings.full_blocks == running.steps
            read = [(step, block) for step, part in tier.reads for block in part or range(blocks)]
            assert read == [(step, block) for step in range(running.steps) for block in range(1, blocks)]


def test_plan_without_records_reads_nothing_and_is_the_dense_edit(builtin_kind: Checkpoint, recorded: Path) -> None:
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW)))
        planned, dense = editor.edit(a_request()), editor.dense(a_request())
        assert planned.timings.cache == "hit"
        assert planned.timings.full_blocks == len(planned.timings.step_ms) * builtin_kind.forward.num_blocks
        assert np.array_equal(pixels(planned.picture), pixels(dense.picture))
        assert not tier.reads


def test_disk_that_is_fast_enough_is_read_by_whole_steps_into_memory(builtin_kind: Checkpoint, recorded: Path) -> None:
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        expected = editor.edit(a_request())
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, FAST)))
        first, second = editor.edit(a_request()), editor.edit(a_request())
        assert [edit.timings.tier for edit in (first, second)] == ["disk", "host"]
        assert all(part is None for _, part in tier.reads)
        assert len(tier.reads) == len(first.timings.step_ms)
        assert np.array_equal(pixels(first.picture), pixels(expected.picture))
        assert first.timings.full_blocks == 0


def test_template_that_was_read_past_memory_is_brought_into_it_after_the_edit(
    builtin_kind: Checkpoint, recorded: Path
) -> None:
    with disk_editor(builtin_kind, recorded) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), PLAN_POLICIES["always_cached"]))
        assert editor.edit(a_request()).timings.tier == "disk"
        wait_until(lambda: editor.edit(a_request()).timings.tier == "host")


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_every_plan_makes_the_picture_that_its_blocks_make_from_memory(
    builtin_kind: Checkpoint, recorded: Path, prefix: int
) -> None:
    """Where records come from, and when, is no matter of what they are used for."""
    pictures = []
    if prefix == 0:
        with disk_editor(builtin_kind, recorded) as (editor, _):
            pictures.append(pixels(editor.edit(a_request()).picture))
    for disk in (SLOW, FAST):
        with disk_editor(builtin_kind, recorded) as (editor, _):
            editor.plan_steps(StepPlanner(costs_of(builtin_kind, disk), prefix_of(prefix)))
            pictures += [pixels(editor.edit(a_request()).picture) for _ in range(2)]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize("fault", ["fail_at", "lose_at"])
@pytest.mark.parametrize("at", [0, 3])
def test_record_that_does_not_come_costs_a_dense_step_and_no_edit(
    builtin_kind: Checkpoint, recorded: Path, fault: str, at: int
) -> None:
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), PLAN_POLICIES["always_cached"]))
        setattr(tier, fault, at)
        result = editor.edit(a_request())
        assert result.timings.cache == "partial"
        assert 1 <= result.timings.dense_steps <= len(result.timings.step_ms)
        wait_until(lambda: editor.shelf.loader.held_bytes == 0)


def test_loader_gives_everything_back_when_an_edit_is_left(builtin_kind: Checkpoint, recorded: Path) -> None:
    with disk_editor(builtin_kind, recorded) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), PLAN_POLICIES["always_cached"]))
        with editor.start(a_request()) as running:
            running.advance()
            running.advance()
        wait_until(lambda: editor.shelf.loader.held_bytes == 0)


def test_step_that_the_device_has_room_for_is_taken_whole_once(builtin_kind: Checkpoint, recorded: Path) -> None:
    with disk_editor(builtin_kind, recorded, device_cache_bytes=64 * MIB) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), prefix_of(1)))
        first = editor.edit(a_request()).timings
        second = editor.edit(a_request()).timings
        assert (first.full_blocks, first.tier, second.tier) == (0, "disk", "device")


def test_records_that_came_to_memory_meanwhile_are_no_views_of_it_on_the_device(
    builtin_kind: Checkpoint, recorded: Path
) -> None:
    """The device tier outlives leases: other templates take the memory that its records were read from."""
    with disk_editor(builtin_kind, recorded, device_cache_bytes=64 * MIB) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), PLAN_POLICIES["always_cached"]))
        with editor.start(a_request()) as running:
            key = running.template_key
            editor.store.prefetch(key)  # as by another edit
            wait_until(lambda: set(editor.store.lease(key).tiers()) == {"host"})  # type: ignore[union-attr]
            while not running.done:
                running.advance()
            expected = pixels(running.finish().picture)
        arena = editor.store.arena  # type: ignore[attr-defined]
        arena.slab([Extent(0, arena.num_bytes)]).views(0, arena.num_bytes)[0][:] = 77
        again = editor.edit(a_request())
        assert again.timings.tier == "device"
        assert np.array_equal(pixels(again.picture), expected)


def test_planner_that_fails_costs_no_edit(builtin_kind: Checkpoint, recorded: Path) -> None:
    def policy(costs: BlockCosts, loader: LoaderState) -> tuple[bool, ...]:  # noqa: ARG001
        raise ZeroDivisionError

    with disk_editor(builtin_kind, recorded) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), policy))
        timings = editor.edit(a_request()).timings
        assert (timings.cache, timings.dense_steps) == ("hit", 0)


@pytest.mark.parametrize("state", ["full is cheaper", "the guard is alarmed"])
def test_where_nothing_is_loaded_no_cost_changes_the_picture(builtin_kind: Checkpoint, state: str) -> None:
    editor = an_editor(builtin_kind)
    expected = pixels(editor.edit(a_request()).picture)
    guard = PlanGuard()  # that has seen no dense step wants one
    planner = StepPlanner(costs_of(builtin_kind, SLOW), guard=guard)
    if state == "full is cheaper":
        planner = StepPlanner(costs_of(builtin_kind, SLOW, full_is_dear=False))
    editor.plan_steps(planner)
    edited = editor.edit(a_request())
    assert (edited.timings.tier, edited.timings.full_blocks) == ("host", 0)
    assert np.array_equal(pixels(edited.picture), expected)
    editor.close()


def test_costs_follow_what_is_measured(builtin_kind: Checkpoint, recorded: Path) -> None:
    """A disk that was thought to be slow beyond use, and is not, is used once it was seen."""
    costs = costs_of(builtin_kind, SLOW, full_is_dear=True)
    before = costs.load_ms("disk", 1000)
    with disk_editor(builtin_kind, recorded) as (editor, _):
        editor.plan_steps(StepPlanner(costs, PLAN_POLICIES["always_cached"]))
        editor.edit(a_request())
    assert costs.load_ms("disk", 1000) < before / 2


def test_timings_tell_of_stalls(builtin_kind: Checkpoint, recorded: Path) -> None:
    gate = threading.Event()
    with disk_editor(builtin_kind, recorded) as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), PLAN_POLICIES["always_cached"]))
        read = tier.read_step
        delay = threading.Timer(1.0, gate.set)

        def late(*args: object) -> bool:
            if not delay.is_alive():
                delay.start()
            assert gate.wait(10)
            return read(*args)  # type: ignore[arg-type]

        tier.read_step = late  # type: ignore[method-assign, assignment]
        timings = editor.edit(a_request()).timings
        assert 250 <= timings.stall_ms <= timings.denoise_ms


def test_step_is_planned_by_its_mask(builtin_kind: Checkpoint, recorded: Path) -> None:
    """The planner is asked with the edit's own tokens, and the plan is what is computed."""
    checkpoint, forward = watched(builtin_kind)
    asked: list[BlockCosts] = []

    def policy(costs: BlockCosts, loader: LoaderState) -> Sequence[bool]:  # noqa: ARG001
        asked.append(costs)
        return tuple(block < 1 for block in range(len(costs)))

    with disk_editor(checkpoint, recorded) as (editor, _):
        editor.plan_steps(StepPlanner(costs_of(checkpoint, SLOW), policy))  # type: ignore[arg-type]
        with editor.start(a_request()) as running:
            running.advance()
            timings = running.timings
        segments = forward.calls[-1][0]
        text = len(segments[0].text)
        assert asked[-1].masked_ms[0] == 1 + len(segments) * (text + timings.tokens_active)
        assert asked[-1].full_ms[0] == 1 + len(segments) * (text + timings.tokens_total)
        assert {len(segment.tokens) for segment in segments} == {timings.tokens_total}
        assert {0 if s.active is None else len(s.active) for s in segments} == {timings.tokens_active}


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again, ten seconds at most."""
    pause = threading.Event()
    for _ in range(100):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError("it did not come to pass")


def test_edits_of_a_batch_whose_blocks_are_read_one_by_one_fail_by_themselves(
    builtin_kind: Checkpoint, tmp_path: Path
) -> None:
    """The disk fails in the middle of a pass of three: one edit computes that step densely, the others read again."""
    requests = [a_request(random_picture(seed=seed), seed=seed) for seed in range(3)]
    with disk_editor(builtin_kind, tmp_path / "records") as (editor, _):
        for request in requests:
            editor.edit(request)
    with disk_editor(builtin_kind, tmp_path / "records") as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), prefix_of(1)))
        expected = [editor.edit(request) for request in requests]
        tier.reads.clear()
    with disk_editor(builtin_kind, tmp_path / "records") as (editor, tier):
        editor.plan_steps(StepPlanner(costs_of(builtin_kind, SLOW), prefix_of(1)))
        edits = [editor.start(request) for request in requests]
        tier.fail_at = 4
        while not edits[0].done:
            outcome = run_step(builtin_kind.forward, edits, planner=editor.shelf.planner)
            assert not outcome.stuck
        dense_steps = [edit.timings.dense_steps for edit in edits]
        assert sorted(dense_steps) == [0, 0, 1]
        for edit, alone in zip(edits, expected, strict=True):
            picture = pixels(edit.finish().picture).astype(int)
            if not edit.timings.dense_steps:
                assert edit.timings.cache == "hit"
                assert np.abs(picture - pixels(alone.picture)).max() <= 1
