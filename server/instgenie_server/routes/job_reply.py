"""Jobs as clients see them."""

from __future__ import annotations

from aiohttp import web

from instgenie_server.app_keys import AUTHENTICATOR, SETTINGS
from instgenie_server.jobs import Job, JobState
from instgenie_server.routes.keys import engine_of
from instgenie_server.schemas import ChosenFidelity, ErrorFields, JobReply


def job_reply(request: web.Request, job: Job) -> JobReply:
    """The job with its place in the queue or its progress."""
    jobs = engine_of(request).jobs
    progress = jobs.progress(job.id)
    timings = job.detail.get("timings") if job.state is JobState.DONE else None
    error = None
    if job.state.is_end and job.state is not JobState.DONE:
        code, message = job.detail.get("code", job.state.value), job.detail.get("message", f"the edit was {job.state}")
        error = ErrorFields(message=message, type="edit_error", param=job.detail.get("param"), code=code)
    return JobReply(
        id=job.id,
        status=job.state,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        position=(jobs.position(job.id) or None) if job.state is JobState.QUEUED else None,
        step=progress.step if progress else (timings or {}).get("steps"),
        steps=progress.steps if progress else (timings or {}).get("steps"),
        seed=job.params["seed"],
        cache=(timings or {}).get("cache"),
        tier=(timings or {}).get("tier"),
        fidelity=ChosenFidelity.of(job.params) if job.params.get("fidelity") else None,
        timings=timings,
        image_url=image_url(request, job) if job.state is JobState.DONE else None,
        error=error,
    )


def image_url(request: web.Request, job: Job) -> str:
    """Where the job's result can be read for a while, without a key."""
    path = request.app[AUTHENTICATOR].signed_path(f"/v1/edits/{job.id}/image")
    base = request.app[SETTINGS].public_url or f"{request.scheme}://{request.host}"
    return f"{base}{path}"
