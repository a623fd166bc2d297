"""Measuring what a model's blocks and the loads of its records cost on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf

import torch

from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.pipeline.cost import FREE, MIN_R_SQUARED, BlockKind, CostModel, LoadFit
from instgenie.pipeline.cost_fit import fit_block, fit_load
from instgenie.pipeline.marks import Clock, marks_on
from instgenie.pipeline.probe import Probe, RandomRecords, UsualEdit, random_probes
from instgenie_cache import TierName

log = logging.getLogger(__name__)

# What to measure, the most telling first: canvas as a share of the model's, active tokens as a share of the canvas, and
# segments. Canvases of two sizes tell attention from linear layers.
_POINTS = (
    (1.0, 0.1, 1),
    (1.0, 1.0, 1),
    (0.25, 1.0, 1),
    (1.0, 0.35, 1),
    (0.5, 0.3, 2),
    (1.0, 0.6, 1),
    (1.0, 0.2, 2),
    (1.0, 0.1, 4),
    (1.0, 1.0, 2),
)
_LEAST_POINTS = 3  # measured however long they take
_ROUNDS = 6
_PATIENCE = 3  # times the limit, while costs cannot be trusted
_LEAST_MS = 1e-3  # the clocks tell no less
_LOAD_REPEATS = 5
_REFRESH_ROUNDS = 5  # odd ones are left out of account, and the factors follow step by step
# What loads from further away take beside the copy from the host's memory, until one is observed: a disk reads 1 GB a
# second, an object store 100 MB. They say only which of them is slow.
_GUESSED_LOADS: dict[TierName, tuple[float, float]] = {"disk": (0.2, 1e-6), "object": (20.0, 1e-5)}


def calibrate(
    forward: FluxForward, edit: UsualEdit, limit_s: float = 2.0, clock: Clock = time.perf_counter
) -> CostModel:
    """Time the model on random tokens, and some loads, and fit the costs.

    Of each shape the shortest time counts, since other programs make a block longer and never shorter: with two of
    them on two cores medians were twice the shortest times, and scattered. How much slower blocks are beside other
    programs is learnt from edits.

    Args:
        limit_s: seconds for the model's passes; three times as long on a machine that is too busy to tell, and longer
            if four passes take longer.
        clock: in seconds; on CUDA for the limit alone.
    """
    loads, decode = _measure_loads(forward, edit, clock)
    probes = random_probes(forward, edit, _POINTS)
    began = clock()
    for limit in (limit_s, _PATIENCE * limit_s):
        _measure(forward, probes, began + limit, clock)
        costs = _fit(forward, [probe for probe in probes if probe.part_ms], loads, decode)
        if costs.is_trusted:
            break
    for kind, fit in costs.blocks.items():
        log.info("costs of %s blocks: R^2 %.4f over %d shapes", kind, fit.r_squared, fit.points)
    if not costs.is_trusted:
        log.warning("costs are not trusted, R^2 has to be %g: %s", MIN_R_SQUARED, costs.r_squared)
    return costs


def refresh(
    forward: FluxForward,
    edit: UsualEdit,
    costs: CostModel,
    limit_s: float = 1.0,
    clock: Clock = time.perf_counter,
) -> None:
    """Have costs of an earlier time follow how fast the machine is now, by a few passes on few tokens and on all.

    Args:
        limit_s: seconds; a slow model may take two passes longer.
        clock: as for `calibrate`.
    """
    deadline = clock() + limit_s
    probes = random_probes(forward, edit, _POINTS[:2])
    forward(probes[0].segments)
    for _ in range(_REFRESH_ROUNDS):
        for probe in probes:
            part_ms = _run(forward, probe.segments, clock)
            for kind, blocks in _timed_blocks(costs.kinds).items():
                costs.observe_blocks(kind, [(probe.shapes, [part_ms[i] for i in blocks])])
        if clock() > deadline:
            return


def _measure(forward: FluxForward, probes: Sequence[Probe], deadline: float, clock: Clock) -> None:
    """Run them in turn, not each several times in a row: what goes on elsewhere then disturbs one run of several."""
    forward(probes[0].segments)  # a process's first pass takes memory and sets libraries up
    row_ms = inf
    for _ in range(_ROUNDS):
        for number, probe in enumerate(probes):
            expected_ms = sum(probe.part_ms) or row_ms * probe.rows
            is_needed = number < _LEAST_POINTS and not probe.part_ms
            if is_needed or clock() + expected_ms / 1000 <= deadline:
                probe.learn(_run(forward, probe.segments, clock))
                row_ms = min(row_ms, sum(probe.part_ms) / probe.rows)
        if clock() > deadline:
            return


def _run(forward: FluxForward, segments: Sequence[Segment], clock: Clock) -> list[float]:
    """Milliseconds of each block, the first with what comes before it, and of what comes after the last."""
    marks = marks_on(forward.device, clock)
    marks.add()
    forward(segments, on_block=lambda _: marks.add())
    marks.add()
    return [max(_LEAST_MS, part_ms) for part_ms in marks.intervals_ms()]


def _fit(
    forward: FluxForward, probes: Sequence[Probe], loads: Mapping[TierName, LoadFit], decode: LoadFit
) -> CostModel:
    kinds: list[BlockKind] = ["double"] * forward.num_double
    kinds += ["single"] * (forward.num_blocks - forward.num_double)
    blocks = _timed_blocks(kinds)

    def shortest_ms(probe: Probe, kind: BlockKind) -> float:
        return min(probe.part_ms[i] for i in blocks[kind])  # of blocks that are all alike

    fits = {kind: fit_block([(probe.shapes, shortest_ms(probe, kind)) for probe in probes]) for kind in blocks}
    beside = []
    for probe in probes:
        before_ms = max(0.0, probe.part_ms[0] - shortest_ms(probe, kinds[0]))
        beside.append((probe.shapes, before_ms + probe.part_ms[-1]))
    return CostModel(kinds, fits, fit_block(beside, 2), loads, decode)


def _timed_blocks(kinds: Sequence[BlockKind]) -> dict[BlockKind, list[int]]:
    """Numbers of the blocks of each kind; not the first one's, which is timed with what comes before it, if it can."""
    blocks = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in kinds}
    if len(blocks[kinds[0]]) > 1:
        del blocks[kinds[0]][0]
    return blocks


def _measure_loads(forward: FluxForward, edit: UsualEdit, clock: Clock) -> tuple[dict[TierName, LoadFit], LoadFit]:
    """Costs of loads by tier, and of decoding. On the CPU payloads are read where they are in the host's memory."""
    records = [RandomRecords(forward, max(1, edit.canvas_tokens // part), edit.codec) for part in (1, 2, 4)]
    decode = host = FREE
    if edit.decodes_ahead and edit.codec != "raw":  # payloads of `raw` are used as they are
        decode = fit_load([(r.payload_bytes, _shortest_ms(forward, clock, partial(r.decode, 0))) for r in records])
    if forward.device.type == "cuda":
        host = fit_load([(r.payload_bytes, _copy_ms(forward, clock, r.payload_bytes)) for r in records])
    loads: dict[TierName, LoadFit] = {"host": host}
    for tier, (base_ms, byte_ms) in _GUESSED_LOADS.items():
        loads[tier] = LoadFit(host.base_ms + base_ms, host.byte_ms + byte_ms, is_measured=False)
    return loads, decode


def _copy_ms(forward: FluxForward, clock: Clock, num_bytes: int) -> float:
    """Of a copy from page-locked memory."""
    source = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=forward.device)
    return _shortest_ms(forward, clock, partial(target.copy_, source, non_blocking=True))


def _shortest_ms(forward: FluxForward, clock: Clock, work: Callable[[], object]) -> float:
    marks = marks_on(forward.device, clock)
    work()
    marks.add()
    for _ in range(_LOAD_REPEATS):
        work()
        marks.add()
    return max(_LEAST_MS, min(marks.intervals_ms()))
