"""Orders of stored jobs, within a budget of memory: each decoded picture is held until its edit ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from instgenie.orders import EditOrder
from instgenie_server.access.pixel_budget import Hold, PixelBudget
from instgenie_server.api_error import ApiError
from instgenie_server.intake import PictureDecoder, from_params, to_orders
from instgenie_server.jobs import Job

ReadPicture = Callable[[str], Awaitable[bytes]]


class OrderMaker:
    """Makes orders of jobs. A job whose pictures the budget does not have waits until others have ended; one that finds
    no thread to decode them, until there is one: it was accepted, so that neither is an attempt.

    Jobs wait for memory in turn: a large picture would else wait for as long as small ones come.
    """

    def __init__(self, decoder: PictureDecoder, limit_bytes: int) -> None:
        self._decoder = decoder
        self._budget = PixelBudget(limit_bytes)
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def order(self, job: Job, read: ReadPicture) -> AsyncIterator[EditOrder]:
        """The order of a stored job, the same one each time; its memory is held for the block.

        Args:
            read: gives a picture file by its digest.
        """
        with self._hold() as hold:
            async with self._turn:
                order = await self._made(job, read, hold)
            yield order

    async def _made(self, job: Job, read: ReadPicture, hold: Hold) -> EditOrder:
        form = from_params(job.params)
        image = await read(job.image)
        mask = None if job.mask is None else await read(job.mask)
        while True:
            self._given_back.clear()
            try:
                picture, selection = await self._decoder.picture_and_mask(image, mask, form.mask_mode, take=hold.take)
                break
            except ApiError as error:
                code = error.code
                if code not in ("pictures_busy", "decoders_busy"):
                    raise
            hold.give_back()  # the picture's share, where only the mask's, or a thread for it, was missing
            if code == "pictures_busy":  # for a thread it has waited by now
                await self._given_back.wait()
        (order,) = to_orders(form, job.id, picture, selection, job.params["seed"], job.tenant)
        # The queue of jobs has put them in order. Ones that would wait long behind edits that do not pass that queue
        # would keep all other jobs, urgent ones too, waiting with them.
        return replace(order, priority=max(0, order.priority))

    @contextmanager
    def _hold(self) -> Iterator[Hold]:
        try:
            with self._budget.hold() as hold:
                yield hold
        finally:
            self._given_back.set()
