"""The OpenAPI document, from the same schemas that check requests and make replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from instgenie import __version__
from instgenie_server import schemas
from instgenie_server.intake import EditForm, Img2ImgForm, JobForm
from instgenie_server.jobs import JobState
from instgenie_server.readiness import ReadinessReply
from instgenie_server.routes.templates import TemplateForm

_REF = "#/components/schemas/{model}"
_FILES = {
    "image": "The template: a PNG, WebP or JPEG, told by its content.",
    "mask": "A picture of the template's size that says what is edited, as `mask_mode` has it. Absent, the template's "
    "transparent parts are.",
}
_KEY_ERRORS = (401, 403, 429, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        form: schema of a multipart body; `files` are its file parts, True where they are required.
        told: what headers of the reply of status 200 say.
        is_streamed: whether a client can ask for events in place of the reply of status 200.
        replies: schema or media type by status; None is an empty reply.
        errors: statuses of error replies, besides those that every route with access control has.
    """

    method: str
    path: str
    summary: str
    replies: dict[int, type[BaseModel] | str | None]
    errors: tuple[int, ...] = ()
    form: type[BaseModel] | None = None
    json: type[BaseModel] | None = None
    files: Mapping[str, bool] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    query: tuple[dict[str, Any], ...] = ()
    headers: tuple[str, ...] = ()
    is_open: bool = False
    is_streamed: bool = False


_PAGING = (
    {"name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
    {"name": "after", "schema": {"type": "string"}},
    {"name": "status", "schema": {"type": "string", "enum": [state.value for state in JobState]}},
)
_UPLOAD_ERRORS = (400, 404, 408, 413, 422, 500, 504)
_PICTURE = "image/*"
_EVENTS = "text/event-stream"

_TOLD = {
    "x-instgenie-seed": "the seed of the first result",
    "x-instgenie-fidelity": "what `fidelity` chose, as JSON, where it was given",
    "x-instgenie-cache": "hit, cold, partial, refused or off, of each result; absent where events are streamed",
    "x-instgenie-tier": "where the records of each result were, or none; absent where events are streamed",
}

OPERATIONS = (
    Operation(
        "post", "/v1/images/edits", "Edit a picture and wait for the result; OpenAI's clients can call it",
        {200: schemas.ImagesReply}, (*_UPLOAD_ERRORS, 409), form=EditForm,
        files={"image": True, "mask": False}, told=_TOLD, is_streamed=True,
    ),
    Operation(
        "post", "/v1/edits", "Accept an edit; it is durable once the reply is sent", {202: schemas.JobReply},
        _UPLOAD_ERRORS, form=JobForm, files={"image": True, "mask": False}, headers=("Idempotency-Key",),
    ),
    Operation("get", "/v1/edits", "Edits, newest first", {200: schemas.JobList}, (400,), query=_PAGING),
    Operation("get", "/v1/edits/{id}", "One edit", {200: schemas.JobReply}, (404,)),
    Operation("delete", "/v1/edits/{id}", "Cancel an edit", {200: schemas.JobReply}, (404,)),
    Operation(
        "get", "/v1/edits/{id}/events", "Server-sent events of an edit until its end", {200: _EVENTS},
        (404,), headers=("Last-Event-ID",),
    ),
    Operation("get", "/v1/edits/{id}/image", "The result", {200: _PICTURE}, (404,)),
    Operation(
        "post", "/v1/templates", "Record a picture before it is edited; 200 where it is warm already",
        {202: schemas.TemplateReply, 200: schemas.TemplateReply}, (400, 408, 413),
        form=TemplateForm, files={"image": True},
    ),
    Operation("get", "/v1/templates", "Templates, newest first", {200: schemas.TemplateList}),
    Operation("get", "/v1/templates/{id}", "One template", {200: schemas.TemplateReply}, (404,)),
    Operation("delete", "/v1/templates/{id}", "Drop a template's records", {204: None}, (404,)),
    Operation(
        "post", "/v1/templates/{id}/pin", "Keep a template's records", {200: schemas.TemplateReply}, (404, 409)
    ),
    Operation(
        "delete", "/v1/templates/{id}/pin", "Let a template's records be evicted", {200: schemas.TemplateReply}, (404,)
    ),
    Operation("get", "/v1/models", "What is served", {200: schemas.ModelList}),
    Operation("get", "/v1/models/{id}", "One model", {200: schemas.ModelReply}, (404,)),
    Operation(
        "post", "/sdapi/v1/img2img", "AUTOMATIC1111's inpainting", {200: schemas.A1111Reply}, _UPLOAD_ERRORS,
        json=Img2ImgForm,
    ),
    Operation("get", "/sdapi/v1/progress", "How far the newest img2img is", {200: schemas.A1111Progress}),
    Operation("get", "/healthz", "Alive", {200: schemas.HealthReply}, is_open=True),
    Operation(
        "get", "/readyz", "Whether edits are taken", {200: ReadinessReply, 503: ReadinessReply}, is_open=True
    ),
    Operation("get", "/metrics", "Prometheus metrics", {200: "text/plain"}),
)  # fmt: skip


@cache
def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    models = {m for operation in OPERATIONS for m in _models(operation)} | {schemas.ErrorReply, schemas.ImageEvent}
    ordered = sorted(models, key=lambda model: model.__name__)
    inputs = {operation.form for operation in OPERATIONS} | {operation.json for operation in OPERATIONS}
    modes = [(model, "validation" if model in inputs else "serialization") for model in ordered]
    _, definitions = models_json_schema(modes, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, definitions["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "InstGenIE",
            "version": __version__,
            "description": "Text-guided edits of a masked part of a picture.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _models(operation: Operation) -> set[type[BaseModel]]:
    found = {reply for reply in operation.replies.values() if isinstance(reply, type)}
    return found | {model for model in (operation.form, operation.json) if model is not None}


def _operation(operation: Operation, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if "{id}" in operation.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    parameters += [{"in": "query", **parameter} for parameter in operation.query]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in operation.headers]
    replies = {str(status): _reply(status, reply) for status, reply in operation.replies.items()}
    if operation.is_streamed:
        replies["200"]["content"] |= _reply(200, _EVENTS)["content"]
    if operation.told:
        replies["200"]["headers"] = {name: _header(name, told) for name, told in operation.told.items()}
    for status in (*operation.errors, *(() if operation.is_open else _KEY_ERRORS)):
        replies.setdefault(str(status), _error(status))
    result: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}_{operation.path.strip('/').replace('/', '_').replace('{id}', 'one')}",
        "responses": replies,
    }
    if parameters:
        result["parameters"] = parameters
    if operation.form is not None:
        schema = definitions[operation.form.__name__]
        body = {**schema, "properties": {**_files(operation), **schema["properties"]}}
        body["required"] = [name for name, needed in operation.files.items() if needed] + schema.get("required", [])
        result["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": body}}}
    if operation.json is not None:
        ref = {"$ref": _REF.format(model=operation.json.__name__)}
        result["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref}}}
    if operation.is_open:
        result["security"] = []
    return result


def _header(name: str, told: str) -> dict[str, Any]:
    if name != "x-instgenie-fidelity":
        return {"description": told, "schema": {"type": "string"}}
    ref = {"$ref": _REF.format(model=schemas.ChosenFidelity.__name__)}
    return {"description": told, "content": {"application/json": {"schema": ref}}}


def _files(operation: Operation) -> dict[str, Any]:
    return {name: {"type": "string", "format": "binary", "description": _FILES[name]} for name in operation.files}


def _reply(status: int, reply: type[BaseModel] | str | None) -> dict[str, Any]:
    description = {202: "accepted: it goes on in the background", 204: "deleted"}.get(status, "done")
    if reply is None:
        return {"description": description}
    if reply == _EVENTS:  # without a schema: OpenAPI 3.1 cannot say whether it is of the whole or of one event
        return {"description": description, "content": {_EVENTS: {}}}
    if isinstance(reply, str):
        return {"description": description, "content": {reply: {"schema": {"type": "string"}}}}
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model=reply.__name__)}}},
    }


def _error(status: int) -> dict[str, Any]:
    ref = {"$ref": _REF.format(model=schemas.ErrorReply.__name__)}
    return {"description": _ERRORS[status], "content": {"application/json": {"schema": ref}}}


_ERRORS = {
    400: "a field is wrong; `param` names it",
    401: "an API key is needed, or it is unknown",
    403: "not for this caller",
    404: "not there",
    408: "the upload took too long",
    409: "somebody cancelled the edit, or the template's picture was not kept and has to be uploaded again",
    413: "too large",
    422: "the idempotency key belongs to another request",
    429: "too much waits, too many requests, templates or pins; `retry-after` says when to come back, if at all",
    500: "the server failed",
    503: "starting, stopping, or out of storage",
    504: "the deadline passed",
}
