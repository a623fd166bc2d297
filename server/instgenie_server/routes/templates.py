"""`/v1/templates`: pictures whose records are made before they are edited."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instgenie.errors import InvalidInputError
from instgenie.orders import Pixels, WarmOrder
from instgenie_cache import content_digest
from instgenie_server.api_error import ApiError, busy, invalid, not_found
from instgenie_server.app_keys import IDENTITY, SETTINGS
from instgenie_server.intake import read_form, read_uploads, to_api_error
from instgenie_server.intake.edit_form import Guidance, Prompt, Seed, Steps
from instgenie_server.intake.field_values import Flag, whole
from instgenie_server.record_cache.store import service_address
from instgenie_server.routes.keys import DECODER, PIXELS, UPLOADS, engine_of
from instgenie_server.routes.reply import json_reply
from instgenie_server.schemas import ErrorFields, TemplateList, TemplateReply
from instgenie_server.template_registry import (
    PictureGoneError,
    PinRefusedError,
    RegistryError,
    TemplateState,
    TooManyWaitingError,
    WarmTemplate,
    new_template_id,
)

routes = web.RouteTableDef()

MAX_BOXES = 256
MAX_WINDOWS = 10_000  # the engine's limit
MAX_COORDINATE = 1_000_000  # of any picture; a box has to lie in its own
_Coordinate = Annotated[int, Field(ge=0, le=MAX_COORDINATE), whole]


def _as_form(schema: dict[str, Any]) -> None:
    """Fields of a form are text or absent, never null; boxes are JSON in a text."""
    for value in schema["properties"].values():
        if value.get("default", "") is None:
            value |= value.pop("anyOf")[0]
            del value["default"]
    boxes = schema["properties"]["boxes"]
    array = {name: boxes.pop(name) for name in ("type", "items", "maxItems")}
    boxes |= {"type": "string", "contentMediaType": "application/json", "contentSchema": array}


class TemplateForm(BaseModel):
    """Fields of `POST /v1/templates` besides `image`."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_as_form)

    boxes: list[tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]] | None = Field(
        default=None, max_length=MAX_BOXES, description="JSON: [[left, top, right, bottom], ...] of what will be edited"
    )
    max_windows: Annotated[int, Field(ge=1, le=MAX_WINDOWS), whole] = Field(
        default=64, description="windows to record where no boxes are given, the largest first"
    )
    steps: Steps | None = Field(default=None, description="denoising steps of the edits to come")
    guidance: Guidance | None = Field(default=None, description="of models that have it distilled")
    template_prompt: Prompt = ""
    template_seed: Seed = 0
    pin: Flag = Field(default=False, description="keep its records from being evicted")


@routes.post("/v1/templates")
async def create_template(request: web.Request) -> web.Response:
    """Accept a template; it is warmed in the background, unless the caller has it already: 200 where it is warm."""
    registry = engine_of(request).templates
    form = await read_form(request, request.app[SETTINGS].limits, request.app[UPLOADS])
    values, uploads = template_form(form.fields), read_uploads(form)
    if uploads.mask is not None:
        raise invalid("mask: a template has none; say by `boxes` what will be edited", "mask", "unknown_field")
    content = content_digest(uploads.image, values.model_dump_json(exclude={"pin"}).encode())
    with request.app[PIXELS].hold() as hold:
        hold.take(len(uploads.image))
        picture = await request.app[DECODER].picture(uploads.image, take=hold.take)
        tenant = request[IDENTITY].tenant
        order = _order(values, picture, tenant)
        try:
            template = await registry.add(tenant, content, order, time.time(), values.pin)
        except RegistryError as error:
            raise _refusal(error) from error
    (reply,) = await template_replies(request, [template])
    status = 200 if reply.status == "warm" else 202
    return json_reply(reply, status=status, headers={"Location": f"/v1/templates/{template.id}"})


@routes.get("/v1/templates")
async def list_templates(request: web.Request) -> web.Response:
    """The caller's templates, newest first."""
    templates = engine_of(request).templates.list(request[IDENTITY].tenant)
    return json_reply(TemplateList(data=await template_replies(request, templates)))


@routes.get("/v1/templates/{id}")
async def get_template(request: web.Request) -> web.Response:
    """One template."""
    (reply,) = await template_replies(request, [_template(request)])
    return json_reply(reply)


@routes.delete("/v1/templates/{id}")
async def delete_template(request: web.Request) -> web.Response:
    """Drop a template and its records."""
    await engine_of(request).templates.delete(_template(request))
    return web.Response(status=204)


@routes.post("/v1/templates/{id}/pin")
async def pin_template(request: web.Request) -> web.Response:
    """Keep a template's records from being evicted; where they are gone, they are made again first."""
    registry, template = engine_of(request).templates, _template(request)
    try:
        await registry.pin(template)
    except RegistryError as error:
        raise _refusal(error) from error
    (reply,) = await template_replies(request, [template])
    return json_reply(reply)


@routes.delete("/v1/templates/{id}/pin")
async def unpin_template(request: web.Request) -> web.Response:
    """Let a template's records be evicted again."""
    registry, template = engine_of(request).templates, _template(request)
    await registry.unpin(template)
    (reply,) = await template_replies(request, [template])
    return json_reply(reply)


def template_form(fields: dict[str, str]) -> TemplateForm:
    """The fields of a form, checked.

    Raises:
        ApiError: 400 naming the field.
    """
    values: dict[str, Any] = dict(fields)
    if "boxes" in values:
        try:
            values["boxes"] = json.loads(values["boxes"])
        except (ValueError, RecursionError) as error:
            raise invalid("boxes: is not JSON: expected [[left, top, right, bottom], ...]", "boxes") from error
    try:
        return TemplateForm.model_validate(values)
    except ValidationError as error:
        raise to_api_error(error) from error


def _order(values: TemplateForm, picture: Pixels, tenant: str) -> WarmOrder:
    from instgenie.parameter_checks import check_box

    for box in values.boxes or ():
        try:
            check_box(box, picture.width, picture.height)
        except InvalidInputError as error:
            raise invalid(str(error), "boxes") from error
    return WarmOrder(
        id=new_template_id(),
        picture=picture,
        boxes=None if values.boxes is None else tuple(values.boxes),
        max_windows=values.max_windows,
        steps=values.steps,
        guidance=values.guidance,
        template_prompt=values.template_prompt,
        template_seed=values.template_seed,
        namespace=tenant,
    )


def _template(request: web.Request) -> WarmTemplate:
    template = engine_of(request).templates.get(request[IDENTITY].tenant, request.match_info["id"])
    if template is None:
        raise not_found(f"there is no template {request.match_info['id'][:100]}")
    return template


def _refusal(error: RegistryError) -> ApiError:
    if isinstance(error, TooManyWaitingError):
        return busy(str(error), 5.0)
    if isinstance(error, PictureGoneError):
        return ApiError(409, str(error), "invalid_request_error", None, "picture_gone")
    code = "too_many_pins" if isinstance(error, PinRefusedError) else "too_many_templates"
    return ApiError(429, str(error), "rate_limit_error", None, code)


async def template_replies(request: web.Request, templates: Sequence[WarmTemplate]) -> list[TemplateReply]:
    """The templates as clients see them."""
    states = await engine_of(request).templates.states(templates)
    place = "host" if service_address(request.app[SETTINGS].cache) is None else "service"
    return [_reply(template, state, place) for template, state in zip(templates, states, strict=True)]


def _reply(template: WarmTemplate, state: TemplateState, place: str) -> TemplateReply:
    error = template.error
    return TemplateReply(
        id=template.id,
        status=state.status,
        created_at=template.created_at,
        width=template.width,
        height=template.height,
        windows=template.windows,
        windows_done=state.windows_done,
        num_bytes=state.num_bytes,
        tiers={place: state.num_bytes},
        hits=state.hits,
        pinned=template.pinned,
        error=None if error is None else ErrorFields(message=error, type="template_error", code="not_recorded"),
    )
