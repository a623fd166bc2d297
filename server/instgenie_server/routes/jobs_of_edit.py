"""Requests for edits as stored jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from instgenie.orders import EditOrder, PhaseTimings
from instgenie_cache import content_digest
from instgenie_server.api_error import ApiError, invalid, unavailable
from instgenie_server.app_keys import SETTINGS
from instgenie_server.edit_service import deadline_passed
from instgenie_server.intake import EditForm, to_params
from instgenie_server.jobs import Job, JobState, new_job_id
from instgenie_server.routes.job_errors import job_errors
from instgenie_server.routes.job_reply import image_url
from instgenie_server.routes.keys import engine_of
from instgenie_server.routes.read_edit import ReadEdit
from instgenie_server.schemas import ImageData

_STATUSES = {"template_not_cached": 404, "edit_failed": 500, "input_lost": 500, "interrupted": 500}


def deadline_seconds(request: web.Request, form: EditForm) -> float:
    """How long a client that waits for the edit may wait from now.

    Raises:
        ApiError: 400, it asks for more than the server's limit.
    """
    limit = request.app[SETTINGS].limits.deadline_seconds
    if form.deadline_ms is None:
        return limit
    if form.deadline_ms > 1000 * limit:
        message = f"{form.deadline_ms} is more than the {1000 * limit:g} ms that a client may wait: use POST /v1/edits"
        raise invalid(f"deadline_ms: {message}", "deadline_ms")
    return form.deadline_ms / 1000


def new_job(
    read: ReadEdit,
    order: EditOrder,
    edit_seconds: float,
    deadline: float | None,
    idempotency_key: str | None = None,
) -> Job:
    """The job of an order; it is not stored yet.

    Args:
        edit_seconds: predicted work.
        deadline: seconds from now; without one the edit is carried through, however long the server may be down.
    """
    now = time.time()
    form = read.form.model_copy(update={"n": 1, "stream": False})
    # What the client asked for, without the seed that was drawn where it named none.
    asked = json.dumps(read.form.model_dump(mode="json"), sort_keys=True).encode()
    return Job(
        id=order.id,
        tenant=read.tenant,
        params=to_params(form, order.seed, read.model_steps),
        image="",
        mask=None,
        created_at=now,
        priority=form.priority,
        deadline_at=None if deadline is None else now + deadline,
        idempotency_key=idempotency_key,
        request_digest=content_digest(asked, read.uploads.image, read.uploads.mask or b""),
        predicted_seconds=edit_seconds,
    )


async def run_as_jobs(
    request: web.Request, read: ReadEdit, orders: Sequence[EditOrder], edit_seconds: float, deadline: float
) -> tuple[list[ImageData], Sequence[PhaseTimings]]:
    """Run a request's edits as jobs, so that their results can be fetched later, and wait for all of them.

    Args:
        edit_seconds: predicted work of each.
        deadline: seconds from now, for each.
    Raises:
        ApiError: one of them came to another end than done. If the caller is cancelled, so are the jobs.
    """
    engine = engine_of(request)
    jobs = engine.jobs
    read = replace(read, form=read.form.model_copy(update={"partial_images": 0}))  # nobody would see them
    accepting: list[asyncio.Task[Job]] = []
    accepted: list[Job] = []
    try:
        with engine.edits.room(edit_seconds, len(orders)) as room:
            for order in orders:
                job = new_job(read, replace(order, id=new_job_id(time.time())), edit_seconds, deadline)
                # A task of its own: a caller that leaves while it is stored must be able to wait for its outcome.
                accepting.append(asyncio.create_task(jobs.submit(job, read.uploads.image, read.uploads.mask)))
                with job_errors():
                    accepted.append(await asyncio.shield(accepting[-1]))
                room.edits -= 1  # it counts as a job now
        done = [await _done(request, job, deadline) for job in accepted]
    except BaseException:
        for task in reversed(accepting):  # so that none of them starts because another ends
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                with job_errors():
                    await jobs.cancel(read.tenant, task.result().id)
        raise
    data = [ImageData(url=image_url(request, job)) for job in done]
    return data, [PhaseTimings(**job.detail["timings"]) for job in done]


async def _done(request: web.Request, job: Job, seconds: float) -> Job:
    """The job once it is done; it has so many seconds from its arrival."""
    jobs = engine_of(request).jobs
    with job_errors():
        events = await jobs.events(job.tenant, job.id)
        if events is not None:
            async with contextlib.aclosing(events):
                async for _ in events:
                    pass
        ended = await jobs.get(job.tenant, job.id)
    if ended is None or not ended.state.is_end:
        raise unavailable("the server is stopping")
    if ended.state is JobState.DONE:
        return ended
    if ended.state is JobState.EXPIRED:
        raise deadline_passed(seconds)
    code = ended.detail.get("code", ended.state.value)
    status = 409 if ended.state is JobState.CANCELLED else _STATUSES.get(code, 400)
    type_ = "server_error" if status >= 500 else "invalid_request_error"
    message = ended.detail.get("message", f"the edit was {ended.state}")
    raise ApiError(status, message, type_, ended.detail.get("param"), code)
