"""What the benchmark of batching asks for, and when."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from statistics import fmean, pstdev
from typing import Any, TypeVar

import numpy as np
import pytest

from bench.batching_load import (
    MASK_SHARES,
    SIDE,
    Arrival,
    draw_arrivals,
    draw_mask,
    draw_shares,
    draw_templates,
    edit_orders,
    equal_edits,
    template_pictures,
)
from bench.batching_play import Served, play, saturate
from instgenie.orders import EditOrder, EditOutcome, PhaseTimings, StepReport

T = TypeVar("T")
TIMINGS = PhaseTimings(0, 0, 0, 0, 0, cache="hit", steps=1, dense_steps=0, tokens_active=1, tokens_total=4)
OUTCOME = EditOutcome(b"", SIDE, SIDE, TIMINGS)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_masks_have_the_traces_mean_however_few_there_are() -> None:
    assert list(MASK_SHARES) == sorted(MASK_SHARES)
    for count, tolerance in ((16, 0.012), (1000, 0.004)):
        shares = draw_shares(count, rng())
        assert fmean(shares) == pytest.approx(0.112, abs=tolerance)
        assert MASK_SHARES[0] <= min(shares) < max(shares) <= MASK_SHARES[-1]
    assert shares != sorted(shares)


def test_templates_follow_zipfs_law() -> None:
    templates = draw_templates(20_000, 12, rng())
    counts = np.bincount(templates, minlength=12)
    assert len(counts) == 12
    assert counts[0] / counts[1] == pytest.approx(2**1.1, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10**1.1, rel=0.2)


def test_arrivals_are_a_poisson_process() -> None:
    times = draw_arrivals(5000, rng())
    gaps = np.diff([0.0, *times])
    assert (gaps > 0).all()
    assert fmean(gaps) == pytest.approx(1.0, rel=0.05)
    assert pstdev(gaps) == pytest.approx(1.0, rel=0.05)
    assert draw_arrivals(5000, rng()) == times


@pytest.mark.parametrize("share", [0.005, 0.05, 0.11, 0.2, 0.5, 0.7])
def test_masks_have_their_share_and_differ(share: float) -> None:
    source = rng()
    masks = [draw_mask(share, source) for _ in range(20)]
    for mask in masks:
        assert mask.shape == (SIDE, SIDE)
        assert set(np.unique(mask)) == {0, 1}
        assert mask.mean() == pytest.approx(share, rel=0.04)
    assert len({mask.tobytes() for mask in masks}) == 20


def test_pictures_differ_and_there_are_so_many() -> None:
    pictures = template_pictures(24)
    assert len({picture.data for picture in pictures}) == 24
    assert {(picture.width, picture.height, len(picture.data)) for picture in pictures} == {(SIDE, SIDE, 3 * SIDE**2)}
    for count in (0, 25):
        with pytest.raises(ValueError, match=f"{count} templates"):
            template_pictures(count)


def test_orders_are_of_their_templates_and_masks() -> None:
    pictures, masks = template_pictures(2), [draw_mask(share, rng()) for share in (0.1, 0.2, 0.3)]
    orders = edit_orders(pictures, [1, 0, 1], masks, steps=8, cache="off", strength=0.5)
    assert [order.picture for order in orders] == [pictures[1], pictures[0], pictures[1]]
    assert [order.mask for order in orders] == [mask.tobytes() for mask in masks]
    assert {(order.steps, order.cache, order.strength, order.crop) for order in orders} == {(8, "off", 0.5, False)}
    assert len({(order.id, order.seed) for order in orders}) == 3
    equal = equal_edits(pictures, 3, 0.1, steps=8)
    assert len({order.mask for order in equal}) == 1
    assert [order.picture for order in equal] == [pictures[0], pictures[1], pictures[0]]


class _VirtualLoop(asyncio.SelectorEventLoop):
    """Time goes on only while nothing else is to be done, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen"
        self._loop.now += timeout
        return super().select(0)


class _Device:
    """Takes a second for an edit, one after the other."""

    def __init__(self) -> None:
        self.free = asyncio.Lock()
        self.waiting = self.most_waiting = 0
        self.orders: list[str] = []

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        self.orders.append(order.id)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        async with self.free:
            await asyncio.sleep(1)
        self.waiting -= 1
        return OUTCOME


@pytest.fixture
def orders() -> list[EditOrder]:
    return equal_edits(template_pictures(1), 6, 0.1, steps=1)


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, T]], tuple[T, float]]]:
    """Runs a coroutine; its result, and the seconds that it took."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:

        def act(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
            loop = runner.get_loop()
            started = loop.time()
            return runner.run(work), loop.time() - started

        yield act


Run = Callable[[Coroutine[Any, Any, Any]], tuple[Any, float]]


def test_edits_come_at_their_times_and_pauses_are_skipped(run: Run, orders: list[EditOrder]) -> None:
    device = _Device()
    times = [2.0, 2.25, 2.5, 100.0, 300.0, 300.5]
    served: list[Served]
    served, seconds = run(play(device.edit, [Arrival(at, order) for at, order in zip(times, orders, strict=True)]))
    assert [edit.due for edit in served] == times
    assert [edit.done for edit in served] == pytest.approx([3, 4, 5, 101, 301, 302])
    assert [edit.latency for edit in served] == pytest.approx([1, 1.75, 2.5, 1, 1, 1.5])
    assert seconds == pytest.approx(6)  # of work; 295 are skipped
    assert device.orders == [order.id for order in orders]


def test_an_edit_that_fails_ends_the_run(run: Run, orders: list[EditOrder]) -> None:
    async def fail(order: EditOrder, _: Callable[[StepReport], None]) -> EditOutcome:
        raise ValueError(order.id)

    with pytest.raises(ExceptionGroup) as caught:
        run(play(fail, [Arrival(0.0, orders[0])]))
    assert caught.group_contains(ValueError, match="edit-0")


def test_a_saturated_replica_has_so_many_edits_until_there_are_no_more(run: Run, orders: list[EditOrder]) -> None:
    device = _Device()
    own_seconds, seconds = run(saturate(device.edit, orders, in_flight=4))
    assert own_seconds == seconds == pytest.approx(6)
    assert device.most_waiting == 4
    assert device.orders == [order.id for order in orders]
