"""`POST /v1/images/edits`, as OpenAI's clients call it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from instgenie.errors import InvalidInputError
from instgenie.fidelity import CHOSEN_SETTINGS
from instgenie.orders import EditOrder, EditOutcome, PhaseTimings, StepReport
from instgenie_server.api_error import ApiError, invalid
from instgenie_server.edit_service import Room
from instgenie_server.engine_slot import Engine
from instgenie_server.intake import EditForm
from instgenie_server.routes.event_stream import KEEPALIVE_SECONDS, event_stream
from instgenie_server.routes.jobs_of_edit import deadline_seconds, run_as_jobs
from instgenie_server.routes.keys import engine_of
from instgenie_server.routes.read_edit import ReadEdit, new_order_id, read_edit
from instgenie_server.routes.reply import json_reply, off_loop_if_large, to_base64
from instgenie_server.schemas import ChosenFidelity, ImageData, ImageEvent, ImagesReply, Usage

routes = web.RouteTableDef()


@routes.post("/v1/images/edits")
async def edit_images(request: web.Request) -> web.StreamResponse:
    """Edit at once. A client that leaves before the end cancels its edits."""
    engine = engine_of(request)
    async with read_edit(request, EditForm) as read:
        form = read.form
        if form.stream and form.n > 1:
            raise invalid(f"n: {form.n} results cannot be streamed, one can", "n")
        deadline = deadline_seconds(request, form)
        orders = read.orders(new_order_id(request))
        edit_seconds = engine.edits.predicted_seconds(orders[0])
        if form.response_format == "url" and not form.stream:
            data, timings = await run_as_jobs(request, read, orders, edit_seconds, deadline)
            return _reply(read, data, timings)
        with engine.edits.room(edit_seconds, len(orders)) as room:
            if form.stream:
                return await _stream(request, engine, read, orders[0], room, deadline)
            return await _in_base64(read, await engine.edits.run(orders, room, deadline))


async def _in_base64(read: ReadEdit, outcomes: Sequence[EditOutcome]) -> web.Response:
    def build() -> web.Response:
        data = [ImageData(b64_json=to_base64(outcome.image)) for outcome in outcomes]
        return _reply(read, data, [outcome.timings for outcome in outcomes])

    return await off_loop_if_large(sum(len(outcome.image) for outcome in outcomes), build)


def _reply(read: ReadEdit, data: list[ImageData], timings: Sequence[PhaseTimings]) -> web.Response:
    width, height = read.form.result_size or (read.picture.width, read.picture.height)
    reply = ImagesReply(
        created=int(time.time()),
        data=data,
        output_format=read.form.output_format,
        size=f"{width}x{height}",
        usage=usage(timings),
    )
    caches = ",".join(t.cache for t in timings)
    tiers = ",".join(t.tier or "none" for t in timings)
    headers = {"x-instgenie-cache": caches, "x-instgenie-tier": tiers}
    return json_reply(reply, headers=_chosen(read) | headers)


def _chosen(read: ReadEdit) -> dict[str, str]:
    """Headers with what the edits were made by, where a client may have left it to the server."""
    headers = {"x-instgenie-seed": str(read.seed)}
    if read.form.fidelity is not None:
        headers["x-instgenie-fidelity"] = ChosenFidelity.of(
            read.form.model_dump(include={"cache", *CHOSEN_SETTINGS})
        ).model_dump_json(exclude_none=True)
    return headers


async def _stream(
    request: web.Request, engine: Engine, read: ReadEdit, order: EditOrder, room: Room, deadline: float
) -> web.StreamResponse:
    """Events of one edit. What fails before its first step is an ordinary error reply, unless it waits for long."""
    reports: asyncio.Queue[StepReport] = asyncio.Queue()
    begun = asyncio.Event()

    def report(_number: int, step: StepReport) -> None:
        reports.put_nowait(step)
        begun.set()

    edit = asyncio.create_task(engine.edits.run([order], room, deadline, report))
    edit.add_done_callback(lambda _: begun.set())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEPALIVE_SECONDS):
                await begun.wait()
        if edit.done():
            edit.result()
        async with event_stream(request, _chosen(read)) as events:
            try:
                await _send_all(events, _until_done(reports, edit), edit, order)
            except (ApiError, InvalidInputError) as error:
                told = error if isinstance(error, ApiError) else invalid(str(error), error.parameter)
                await events.send(web.json_response(told.body()).text or "", event="error")
        return events
    finally:
        edit.cancel()


async def _send_all(
    events: EventSourceResponse,
    steps: AsyncIterator[StepReport],
    edit: asyncio.Task[list[EditOutcome]],
    order: EditOrder,
) -> None:
    size = order.output.size or (order.picture.width, order.picture.height)
    described = ImageEvent(
        type="image_edit.partial_image",
        b64_json="",
        created_at=0,
        output_format=order.output.format,
        size=f"{size[0]}x{size[1]}",
    )

    async def send(image: bytes, **fields: Any) -> None:
        def build() -> ImageEvent:
            return described.model_copy(update={"b64_json": to_base64(image), "created_at": int(time.time()), **fields})

        event = await off_loop_if_large(len(image), build)
        text = await off_loop_if_large(len(image), lambda: event.model_dump_json(exclude_none=True))
        await events.send(text, event=event.type)

    index = 0
    async for report in steps:
        if report.preview is not None:
            await send(report.preview, partial_image_index=index)
            index += 1
    (outcome,) = await edit
    await send(outcome.image, type="image_edit.completed", usage=usage([outcome.timings]))


async def _until_done(
    reports: asyncio.Queue[StepReport], edit: asyncio.Task[list[EditOutcome]]
) -> AsyncIterator[StepReport]:
    """The reports of an edit as they come, until it is done."""
    while True:
        following = asyncio.create_task(reports.get())
        try:
            await asyncio.wait({following, edit}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            yield following.result()
        finally:
            following.cancel()


def usage(timings: Sequence[PhaseTimings]) -> Usage:
    """Image tokens: those of the pictures as input, those that were computed as output."""
    given, made = sum(t.tokens_total for t in timings), sum(t.tokens_active for t in timings)
    details = {"image_tokens": given, "text_tokens": 0}
    return Usage(input_tokens=given, output_tokens=made, total_tokens=given + made, input_tokens_details=details)
