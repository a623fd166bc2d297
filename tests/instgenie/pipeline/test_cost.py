"""Predicted milliseconds grow with the work, and follow what blocks and loads were seen to take."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.cost import FREE, BlockFit, BlockKind, CostModel, LoadFit, SegmentShape, block_features

DOUBLE = BlockFit(1.4, 0.01, 7e-6, 6e-4, 0.999, 9)
SINGLE = BlockFit(0.6, 0.008, 7e-6, 5e-4, 0.995, 9)
HOST = LoadFit(0.1, 1e-6)
MASKED, FULL = [SegmentShape(16, 58, 576)] * 2, [SegmentShape(16, 576, 576)] * 2
shapes = st.builds(
    lambda text, active, rest: SegmentShape(text, active, active + rest),
    st.integers(0, 512),
    st.integers(1, 4096),
    st.integers(0, 4096),
)


def a_model(*, host: LoadFit = HOST, r_squared: float = 0.995) -> CostModel:
    blocks: dict[BlockKind, BlockFit] = {"double": DOUBLE, "single": replace(SINGLE, r_squared=r_squared)}
    loads = {"host": host, "disk": LoadFit(0.2, 1e-6, is_measured=False)}
    return CostModel(["double", "double", "single"], blocks, BlockFit(1, 1e-3, 0, 0, 0.5, 9), loads)  # type: ignore[arg-type]


def test_features_of_a_packed_block() -> None:
    assert block_features([SegmentShape(2, 3, 10), SegmentShape(1, 4, 4)]) == (1, 10, 5 * 12 + 5 * 5, 7)


@given(shapes, st.integers(1, 3))
def test_more_tokens_and_more_segments_take_longer(shape: SegmentShape, batch: int) -> None:
    model = a_model()
    wider = replace(shape, active_tokens=shape.active_tokens + 1, total_tokens=shape.total_tokens + 1)
    for kind in ("double", "single"):
        assert 0 < model.block_ms(kind, [shape] * batch) < model.block_ms(kind, [wider] * batch)
        assert model.block_ms(kind, [shape] * batch) < model.block_ms(kind, [shape] * (batch + 1))
        assert model.block_ms(kind, [shape]) <= model.block_ms(kind, [shape.in_full()])


def test_costs_of_a_step_are_in_block_order() -> None:
    model = a_model()
    double_ms, single_ms = model.block_ms("double", MASKED), model.block_ms("single", MASKED)
    assert model.blocks_ms(MASKED) == (double_ms, double_ms, single_ms)
    assert model.fitted_ms(MASKED) == pytest.approx(sum(model.blocks_ms(MASKED)) + model.overhead_ms(MASKED))


@pytest.mark.parametrize("batch", [MASKED, FULL, MASKED + FULL])
def test_a_step_is_its_blocks_and_what_is_beside_them(batch: list[SegmentShape]) -> None:
    model = a_model()
    model.observe_blocks("double", [(MASKED, [20.0])] * 5)  # so that no factor is 1, or another's
    model.observe_blocks("single", [(FULL, [1.0])] * 5)
    assert model.step_ms(batch) == pytest.approx(sum(model.blocks_ms(batch)) + model.overhead_ms(batch))


def test_a_machine_that_becomes_slower_is_followed() -> None:
    model = a_model()
    before, fitted_ms = model.blocks_ms(MASKED), model.fitted_ms(MASKED)
    for _ in range(20):
        for kind in ("double", "single"):
            model.observe_blocks(kind, [(MASKED, [3 * model.blocks[kind].predict(MASKED)] * 2)])
    assert model.blocks_ms(MASKED) == pytest.approx([3 * ms for ms in before], rel=0.01)
    assert model.overhead_ms(MASKED) == pytest.approx(3 * model.overhead.predict(MASKED), rel=0.01)
    assert model.fitted_ms(MASKED) == fitted_ms


def test_kinds_are_followed_apart() -> None:
    model = a_model()
    before = model.block_ms("single", MASKED)
    for _ in range(5):
        model.observe_blocks("double", [(MASKED, [100.0])])
    assert model.block_ms("single", MASKED) == before


def test_what_masked_blocks_teach_is_half_believed_of_full_ones() -> None:
    model = a_model()
    before = model.block_ms("single", FULL)
    for _ in range(30):
        model.observe_blocks("single", [(MASKED, [4 * SINGLE.predict(MASKED)])])
    assert model.block_ms("single", FULL) == pytest.approx(2 * before, rel=0.01)
    for _ in range(30):
        model.observe_blocks("single", [(FULL, [SINGLE.predict(FULL)])])
    assert model.block_ms("single", FULL) == pytest.approx(before, rel=0.01)


def slowed(model: CostModel, side: list[SegmentShape], factor: float) -> None:
    """Have blocks that compute these segments be so much slower, and no others."""
    for _ in range(100):
        for shapes in (MASKED, FULL):
            slower = factor if shapes is side else 1.0
            model.observe_blocks("single", [(shapes, [slower * SINGLE.predict(shapes)])])


@pytest.mark.parametrize("masked", [0, 1, 3, 9, 100])
def test_a_block_of_a_batch_is_as_slow_as_the_segments_that_have_most_rows(masked: int) -> None:
    model = a_model()
    slowed(model, MASKED, 4.0)
    mixed = [FULL[0]] + [MASKED[0]] * masked
    share = masked * 74 / (592 + masked * 74)  # of the rows
    now = 1 + 3 * share
    assert model.block_ms("single", mixed) == pytest.approx(now * SINGLE.predict(mixed), rel=0.02)


@pytest.mark.parametrize("masked", [0, 1, 8, 100])
@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_costs_of_a_batch_follow_it_whatever_it_is_of(masked: int, factor: float) -> None:
    model = a_model()
    mixed = [FULL[0]] + [MASKED[0]] * masked
    for _ in range(40):
        model.observe_blocks("single", [(mixed, [factor * SINGLE.predict(mixed)] * 3)])
    assert model.block_ms("single", mixed) == pytest.approx(factor * SINGLE.predict(mixed), rel=0.01)


def test_a_batch_of_both_kinds_of_segments_teaches_each_by_its_rows() -> None:
    learnt = []
    for masked in (0, 4, 8):  # eight have as many rows as the one in full
        model = a_model()
        mixed = [FULL[0]] + [MASKED[0]] * masked
        for _ in range(5):
            model.observe_blocks("single", [(mixed, [4 * SINGLE.predict(mixed)])])
        full, few = (model.block_ms("single", shapes) / SINGLE.predict(shapes) for shapes in (FULL, MASKED))
        learnt.append(math.log(few) / math.log(full))
    assert learnt[0] == pytest.approx(0.5)
    assert learnt[0] < learnt[1] < learnt[2] == pytest.approx(1.0)


def test_a_step_is_one_observation_however_many_prefixes_its_batch_has() -> None:
    """So that an odd step changes nothing, as ever."""
    model, odd = a_model(), a_model()
    stretches = [[FULL[0]] * n + [MASKED[0]] * (8 - n) for n in range(9)]
    before = model.blocks_ms(MASKED), model.blocks_ms(FULL)
    odd.observe_blocks("single", [(shapes, [50 * SINGLE.predict(shapes)]) for shapes in stretches])
    assert (odd.blocks_ms(MASKED), odd.blocks_ms(FULL)) == before
    for _ in range(3):
        model.observe_blocks("single", [(shapes, [50 * SINGLE.predict(shapes)]) for shapes in stretches])
    assert model.blocks_ms(FULL)[-1] > before[1][-1]


def test_one_odd_block_of_a_step_changes_nothing() -> None:
    model = a_model()
    before = model.blocks_ms(MASKED)
    for _ in range(5):
        took = [(MASKED, [SINGLE.predict(MASKED)] * 2), (MASKED[:1], [50 * SINGLE.predict(MASKED[:1])])]
        model.observe_blocks("single", took)
    assert model.blocks_ms(MASKED) == pytest.approx(before)


@pytest.mark.parametrize("block_ms", [[], [0.0], [-1.0], [math.inf], [math.nan]])
def test_times_that_are_none_are_not_learnt_from(block_ms: list[float]) -> None:
    model = a_model()
    before = model.blocks_ms(MASKED)
    for _ in range(5):
        model.observe_blocks("single", [(MASKED, block_ms)])
        for ms in block_ms:
            model.observe_load("host", 1000, ms)
    assert model.blocks_ms(MASKED) == before
    assert model.load_ms("host", 1000) == a_model().load_ms("host", 1000)


def test_loads_take_time_by_bytes_and_nothing_takes_none() -> None:
    model = a_model()
    assert model.load_ms("host", 1_000_000) == pytest.approx(1.1)
    assert model.load_ms("host", 0) == 0


def test_a_guess_gives_way_to_the_first_load() -> None:
    model = a_model()
    model.observe_load("disk", 1_000_000, 60.0)
    assert model.load_ms("disk", 1_000_000) == pytest.approx(60)
    assert model.load_ms("disk", 2_000_000) == pytest.approx(110)
    assert model.load_ms("host", 1_000_000) == pytest.approx(1.1)


def test_one_odd_load_changes_nothing() -> None:
    model = a_model()
    for load_ms in (1.1, 500.0, 1.1, 1.1):
        model.observe_load("host", 1_000_000, load_ms)
    assert model.load_ms("host", 1_000_000) == pytest.approx(1.1)


def test_a_load_thought_free_that_is_not() -> None:
    model = a_model(host=FREE)
    assert model.load_ms("host", 1_000_000) == 0
    for _ in range(3):
        model.observe_load("host", 1_000_000, 5.0)
    assert model.load_ms("host", 2_000_000) == pytest.approx(10)


def test_decoding_ahead_is_part_of_a_load() -> None:
    plain = a_model()
    model = CostModel(plain.kinds, plain.blocks, plain.overhead, plain.loads, LoadFit(0.5, 1e-6))
    assert model.load_ms("host", 1_000_000) == pytest.approx(1.1 + 1.5)
    for _ in range(20):
        model.observe_load("host", 1_000_000, 2.2 + 1.5)
    assert model.load_ms("host", 1_000_000) == pytest.approx(2.2 + 1.5, rel=0.01)


@pytest.mark.parametrize(("r_squared", "is_trusted"), [(0.95, True), (0.9, True), (0.89, False), (-3.0, False)])
def test_costs_are_trusted_by_their_fit(r_squared: float, *, is_trusted: bool) -> None:
    model = a_model(r_squared=r_squared)
    assert model.is_trusted == is_trusted
    assert model.r_squared == {"double": 0.999, "single": r_squared}


def test_plain_data_and_back() -> None:
    model = a_model()
    model.observe_blocks("single", [(MASKED, [1.0])])
    content = json.loads(json.dumps(model.to_dict()))
    again = CostModel.from_dict(content)
    assert again.to_dict() == content
    assert again.blocks_ms(MASKED) == a_model().blocks_ms(MASKED)
    assert again.load_ms("disk", 1_000_000) == a_model().load_ms("disk", 1_000_000)
    again.observe_load("disk", 1_000_000, 60.0)
    assert again.load_ms("disk", 1_000_000) == pytest.approx(60)


def spoilt(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A model's plain data with one entry changed."""
    content: dict[str, Any] = json.loads(json.dumps(a_model().to_dict()))
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    "content",
    [
        {},
        spoilt(("kinds",), 3),
        spoilt(("kinds",), ["triple"]),
        spoilt(("kinds",), [[]]),
        spoilt(("blocks",), []),
        spoilt(("blocks",), {}),
        spoilt(("blocks", "single"), None),
        spoilt(("blocks", "single", "row_ms"), -1.0),
        spoilt(("blocks", "single", "row_ms"), "1"),
        spoilt(("blocks", "single", "row_ms"), math.nan),
        spoilt(("blocks", "single", "width"), 1.0),
        spoilt(("loads", "host", "byte_ms"), math.inf),
        spoilt(("loads",), 5),
        spoilt(("decode",), [1]),
    ],
)
def test_data_of_another_making_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cost|finite"):
        CostModel.from_dict(content)


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (0, -1, 1), (0, 2, 1)])
def test_shapes_that_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="active_tokens"):
        SegmentShape(*numbers)
