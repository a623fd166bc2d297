"""`/v1/edits`: asynchronous edits, accepted once they are stored, watched by events."""

from __future__ import annotations

import contextlib
import json
import re
import time

from aiohttp import web

from instgenie_server.api_error import ApiError, invalid, not_found
from instgenie_server.app_keys import IDENTITY
from instgenie_server.intake import JobForm
from instgenie_server.intake.field_values import shown
from instgenie_server.jobs import (
    CorruptFileError,
    EventKind,
    Job,
    JobEvent,
    JobState,
    MissingFileError,
    new_job_id,
    parse_event_id,
)
from instgenie_server.routes.event_stream import event_stream
from instgenie_server.routes.job_errors import job_errors
from instgenie_server.routes.job_reply import job_reply
from instgenie_server.routes.jobs_of_edit import new_job
from instgenie_server.routes.keys import engine_of
from instgenie_server.routes.read_edit import read_edit
from instgenie_server.routes.reply import json_reply, to_base64
from instgenie_server.schemas import JobList

routes = web.RouteTableDef()

MAX_PAGE = 100
_STATES = {EventKind.STARTED: "running", EventKind.STEP: "running"}  # all others bear the name of the job's state
MAX_IDEMPOTENCY_CHARS = 200


@routes.post("/v1/edits")
async def create_edit(request: web.Request) -> web.Response:
    """Accept an edit: 202 once it is durable. The same Idempotency-Key gives the same edit."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_CHARS and key.isprintable()):
        raise invalid(f"Idempotency-Key: 1..{MAX_IDEMPOTENCY_CHARS} printable characters", "Idempotency-Key")
    engine = engine_of(request)
    async with read_edit(request, JobForm) as read:
        (order,) = read.orders(new_job_id(time.time()))
        edit_seconds, form = engine.edits.predicted_seconds(order), read.form
        deadline = None if form.deadline_ms is None else form.deadline_ms / 1000
        job = new_job(read, order, edit_seconds, deadline, key)
        with job_errors():
            # One that was accepted under its key before does not wait once more.
            is_known = key is not None and await engine.jobs.has_key(read.tenant, key)
            with contextlib.nullcontext() if is_known else engine.edits.room(edit_seconds):
                job = await engine.jobs.submit(job, read.uploads.image, read.uploads.mask)
    return json_reply(job_reply(request, job), status=202, headers={"Location": f"/v1/edits/{job.id}"})


@routes.get("/v1/edits")
async def list_edits(request: web.Request) -> web.Response:
    """The caller's edits, newest first."""
    query = request.query
    limit = query.get("limit", "20")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise invalid(f"limit: {shown(limit)} is not a whole number in 1..{MAX_PAGE}", "limit")
    try:
        state = JobState(query["status"]) if "status" in query else None
    except ValueError as error:
        raise invalid(f"status: {shown(query['status'])} is not one of {', '.join(JobState)}", "status") from error
    with job_errors():
        page = await engine_of(request).jobs.page(request[IDENTITY].tenant, int(limit), query.get("after"), state)
    data = [job_reply(request, job) for job in page.jobs]
    return json_reply(JobList(data=data, has_more=page.next_cursor is not None, next=page.next_cursor))


@routes.get("/v1/edits/{id}")
async def get_edit(request: web.Request) -> web.Response:
    """One edit."""
    return json_reply(job_reply(request, await _job(request)))


@routes.delete("/v1/edits/{id}")
async def cancel_edit(request: web.Request) -> web.Response:
    """Cancel: takes effect at the next step. An edit that has an end keeps it."""
    job = await _job(request)
    with job_errors():
        cancelled = await engine_of(request).jobs.cancel(job.tenant, job.id)
    return json_reply(job_reply(request, cancelled or job))


@routes.get("/v1/edits/{id}/events", allow_head=False)  # it would last as long as the edit
async def edit_events(request: web.Request) -> web.StreamResponse:
    """What happens to an edit, until its end; `Last-Event-ID` resumes."""
    job = await _job(request)
    last_seen = parse_event_id(request.headers.get("Last-Event-ID") or request.query.get("last_event_id"))
    with job_errors():
        events = await engine_of(request).jobs.events(job.tenant, job.id, last_seen)
    if events is None:
        raise not_found(f"there is no edit {job.id}")
    async with contextlib.aclosing(events), event_stream(request) as stream:
        async for event in events:
            await stream.send(_event_data(job, event), id=str(event.id), event=event.kind.value)
    return stream


@routes.get("/v1/edits/{id}/image")
async def edit_image(request: web.Request) -> web.FileResponse:
    """The result. Sent from the file: a reply that is read slowly holds no memory."""
    job = await _job(request)
    if job.state is not JobState.DONE:
        raise ApiError(404, f"edit {job.id} is {job.state}", "invalid_request_error", None, f"edit_{job.state}")
    try:
        with job_errors():
            file = await engine_of(request).jobs.result_file(job.tenant, job.id)
    except (MissingFileError, CorruptFileError):
        file = None
    if file is None:
        raise not_found(f"edit {job.id} has no image any more")
    kind = f"image/{job.params['output_format']}"
    return web.FileResponse(file, headers={"Cache-Control": "private, max-age=3600, immutable", "Content-Type": kind})


async def _job(request: web.Request) -> Job:
    """The job that the path names, if the caller may see it."""
    job_id, identity = request.match_info["id"], request[IDENTITY]
    with job_errors():
        job = await engine_of(request).jobs.find(job_id)
    if job is None or not identity.may_see(job.tenant):
        raise not_found(f"there is no edit {job_id[:100]}")
    return job


def _event_data(job: Job, event: JobEvent) -> str:
    data = {"id": job.id, "status": _STATES.get(event.kind, event.kind.value), **event.data}
    if event.preview is not None:
        data["preview_b64"] = to_base64(event.preview)
    return json.dumps(data)
