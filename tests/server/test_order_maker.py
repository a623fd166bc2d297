"""Orders of stored jobs, and the memory that their pictures take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest
import pytest_asyncio

from instgenie_server.api_error import ApiError, busy
from instgenie_server.intake import EditForm, PictureDecoder, to_params
from instgenie_server.jobs import MAX_ATTEMPTS, Job
from instgenie_server.order_maker import OrderMaker
from tests.server.intake.pictures import noise, png
from tests.server.routes.site import SIDE, alpha_mask_png, mask_png

T = TypeVar("T")
PICTURE_BYTES = 5 * SIDE * SIDE + SIDE * SIDE  # as it counts, with its mask
FILES = {"image": png(noise(SIDE, SIDE)), "mask": mask_png(), "alpha": alpha_mask_png(), "broken": b"no picture"}


def a_job(number: int, *, image: str = "image", mask: str | None = "mask", **fields: object) -> Job:
    params = to_params(EditForm.model_validate({"prompt": "a pear"} | fields), number, 20)
    return Job(id=f"edit-{number}", tenant="ann", params=params, image=image, mask=mask, created_at=0.0)


async def read(digest: str) -> bytes:
    return FILES[digest]


@pytest_asyncio.fixture
async def decoder() -> AsyncIterator[PictureDecoder]:
    decoder = PictureDecoder(20)
    yield decoder
    decoder.close()


async def test_the_order_of_a_job(decoder: PictureDecoder) -> None:
    maker = OrderMaker(decoder, 10 * PICTURE_BYTES)
    async with maker.order(a_job(7), read) as order:
        assert (order.id, order.seed, order.prompt, order.namespace) == ("edit-7", 7, "a pear", "ann")
        assert (order.picture.width, len(order.mask), order.priority) == (SIDE, SIDE * SIDE, 0)
    async with maker.order(a_job(8, image="alpha", mask=None), read) as order:
        assert sum(order.mask) > 0


async def test_what_waits_for_memory_gets_it_in_turn(decoder: PictureDecoder) -> None:
    maker = OrderMaker(decoder, 2 * PICTURE_BYTES)
    entered: list[str] = []
    leave = [asyncio.Event() for _ in range(5)]

    async def run(number: int) -> None:
        async with maker.order(a_job(number), read) as order:
            entered.append(order.id)
            await leave[number].wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(run(number))
        for left in range(5):
            while len(entered) < min(2 + left, 5):  # noqa: ASYNC110
                await asyncio.sleep(0)
            await decoder.run(lambda: None, "image")  # a thread that would decode a third one has been at it
            assert len(entered) == min(2 + left, 5)
            leave[left].set()
    assert entered == [f"edit-{number}" for number in range(5)]


async def test_a_picture_beyond_the_budget_goes_alone(decoder: PictureDecoder) -> None:
    maker = OrderMaker(decoder, 10)
    async with maker.order(a_job(0), read):
        waiting = asyncio.create_task(entered_and_left(maker, a_job(1)))
        await decoder.run(lambda: None, "image")
        assert not waiting.done()
    await waiting


async def entered_and_left(maker: OrderMaker, job: Job) -> None:
    async with maker.order(job, read):
        pass


async def test_whoever_gives_up_or_fails_gives_back_what_it_had(decoder: PictureDecoder) -> None:
    maker = OrderMaker(decoder, PICTURE_BYTES)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(maker.order(a_job(0), read))
        waiting = asyncio.create_task(entered_and_left(maker, a_job(1)))
        await decoder.run(lambda: None, "image")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    with pytest.raises(ApiError):
        await entered_and_left(maker, a_job(2, image="broken"))
    await entered_and_left(maker, a_job(3))


class JammedDecoder(PictureDecoder):
    """Has no thread for the next `jams` masks."""

    jams = 0

    async def run(self, work: Callable[[], T], param: str) -> T:
        if param == "mask" and self.jams > 0:
            self.jams -= 1
            raise busy("all threads that decode pictures are taken", 1.0, "decoders_busy")
        return await super().run(work, param)


async def test_what_finds_no_thread_waits_for_one() -> None:
    decoder = JammedDecoder(20)
    decoder.jams = MAX_ATTEMPTS + 1
    maker = OrderMaker(decoder, 2 * PICTURE_BYTES)
    async with asyncio.timeout(30), maker.order(a_job(0), read) as order:
        assert (order.id, decoder.jams) == ("edit-0", 0)
        await entered_and_left(maker, a_job(1))  # its picture was counted once, so there is room for another one
    decoder.close()
