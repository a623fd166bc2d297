"""The fields of an edit: those of OpenAI's image edits and ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from instgenie.fidelity import default_refreshes, taken_steps
from instgenie.orders import CachePolicy, EditOrder, Output, OutputFormat, Pixels
from instgenie_server.api_error import invalid
from instgenie_server.intake.decode import MaskMode
from instgenie_server.intake.fidelity_choice import Fidelity, FidelityChoice, joined, parts_of
from instgenie_server.intake.field_values import (
    Flag,
    Size,
    complaint,
    number,
    shown,
    to_size,
    whole,
)
from instgenie_server.intake.validation_error import to_api_error

# The engine's limits, and below the defaults of its orders: a test compares them, since importing them takes time.
MAX_PROMPT_CHARS = 32_000
MAX_STEPS = 1000
MAX_GUIDANCE = 100
MAX_SEED = 2**63 - 1
MAX_HALO_TOKENS = 64
MAX_REFRESHES = 1000
MAX_STEP_CACHE = 10
MAX_FEATHER_PIXELS = 256

MAX_RESULTS = 10
_MAX_DEADLINE_MS = 7 * 86_400_000
MAX_WEBP_SIDE_PIXELS = 16_383

Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), whole]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE), number]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), whole]
Strength = Annotated[float, Field(gt=0, le=1), number]
Feather = Annotated[int, Field(ge=0, le=MAX_FEATHER_PIXELS), whole]
_Deadline = Annotated[int, Field(ge=1, le=_MAX_DEADLINE_MS), whole]
_Name = Annotated[str, Field(max_length=500)]


def _as_parts(schema: dict[str, Any]) -> None:
    """A field of a form is there or absent; it cannot be null, nor can that be its default. Some come in parts."""
    for value in schema["properties"].values():
        if value.get("default", "") is None:
            kinds = [kind for kind in value.pop("anyOf") if kind.get("type") != "null"]
            value |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            del value["default"]
    schema["properties"] |= parts_of("fidelity", FidelityChoice)


class EditForm(BaseModel):
    """What an edit is asked for, beside its pictures. Fields that say nothing else mean what they mean in OpenAI's API.

    An unknown field is an error, and so is a value that cannot be honoured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_as_parts)

    prompt: Prompt = Field(description="What to draw where the picture is edited.")
    n: Annotated[int, Field(ge=1, le=MAX_RESULTS), whole] = Field(
        default=1, description="Results, of seeds seed, seed + 1, ..."
    )
    size: Size = Field(default="auto", description="WxH that the result is scaled to; auto keeps the upload's.")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100), whole] = Field(
        default=100,
        description="Quality of a JPEG or WebP; a WebP of 100 is lossless, as a PNG always is.",
    )
    stream: Flag = Field(default=False, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=3), whole] = Field(
        default=0, description="Pictures on the way, where the reply is streamed."
    )
    model: _Name | None = Field(default=None, description="Of those in /v1/models; absent is the one that is served.")
    user: _Name | None = Field(default=None, description="Not used.")
    safety_identifier: _Name | None = Field(default=None, description="Not used.")
    quality: Literal["auto", "standard", "high"] = Field(
        default="auto", description="All mean the model's full number of steps; fewer are asked for by `steps`."
    )
    background: Literal["auto", "opaque"] = Field(
        default="auto", description="Results are opaque where they are edited."
    )
    input_fidelity: Literal["low", "high"] = Field(
        default="high", description="Both are honoured: what is not edited keeps its pixels."
    )

    seed: Seed | None = Field(
        default=None, description="Of the noise under the mask; absent draws one. The reply tells it."
    )
    steps: Steps | None = Field(default=None, description="Denoising steps; absent is the model's own number.")
    guidance: Guidance | None = Field(default=None, description="Guidance scale; absent is the model's own.")
    strength: Strength = Field(
        default=1.0, description="Share of the steps that is run; below 1 the edit starts from the upload."
    )
    mask_mode: MaskMode = Field(
        default="auto",
        description="alpha: transparent is edited. luminance: white is. auto: alpha if it varies, else white.",
    )
    halo: Annotated[int, Field(ge=0, le=MAX_HALO_TOKENS), whole] = Field(
        default=1, description="Tokens computed around the masked ones."
    )
    refreshes: Annotated[int, Field(ge=0, le=MAX_REFRESHES), whole] | None = Field(
        default=None,
        description="Steps that compute all tokens, for a result closer to the dense edit's. Absent is one for every "
        "20 steps, and none below 10. As many as there are steps, or more, are all of them.",
    )
    fidelity: Fidelity | None = Field(
        default=None,
        description="Chooses halo, refreshes and step_cache, which must be absent then. exact: compute all tokens. "
        "auto: the cheapest of the settings that were measured for the model (/v1/models), of which nine in ten edits "
        "had that PSNR inside the mask to the dense edit's; all tokens where none had. The mode alone, or auto:40, or "
        "an object as JSON, or parts fidelity[mode] and fidelity[psnr_db].",
        examples=["exact", "auto:40", {"mode": "auto", "psnr_db": 40}],
    )
    step_cache: Annotated[int, Field(ge=1, le=MAX_STEP_CACHE), whole] = Field(
        default=1,
        description="Compute one step in so many, after the first three, and extrapolate those between. 1 computes "
        "every step.",
    )
    feather: Feather = Field(default=0, description="Width in pixels of the blend inside the mask's border.")
    template_prompt: Prompt = Field(default="", description="Prompt that the upload is recorded with.")
    template_seed: Seed = Field(default=0, description="Seed that the upload is recorded with.")
    cache: CachePolicy = Field(
        default="auto",
        description="auto: use the upload's records, make them if missing. only: fail then. off: compute all.",
    )
    crop: Flag = Field(default=True, description="Edit a large picture in a window round the mask.")
    priority: Annotated[int, Field(ge=-100, le=100), whole] = Field(
        default=0, description="Edits that wait: larger goes first."
    )
    deadline_ms: _Deadline | None = Field(
        default=None, description="Give up if there is no result so long after the arrival."
    )

    @property
    def result_size(self) -> tuple[int, int] | None:
        """Width and height that results are scaled to; None keeps the upload's."""
        return to_size(self.size)


_Form = TypeVar("_Form", bound=EditForm)


def _one_result(n: int) -> int:
    if n != 1:
        raise complaint(f"an asynchronous edit has one result, not {n}: send one request for each, with its seed")
    return n


def _no_stream(stream: bool) -> bool:
    if stream:
        raise complaint("an asynchronous edit does not stream its reply: read its events at /v1/edits/{id}/events")
    return stream


class JobForm(EditForm):
    """The fields of an asynchronous edit. It has one result, and its events have an address of their own."""

    n: Annotated[int, AfterValidator(_one_result), whole] = Field(default=1, json_schema_extra={"const": 1})
    stream: Annotated[Flag, AfterValidator(_no_stream)] = Field(default=False, json_schema_extra={"const": False})


def read_edit_form(fields: Mapping[str, str], models: Collection[str], kind: type[_Form]) -> _Form:
    """The values of a form's text fields.

    Args:
        models: names that the served model goes by; a form names one of them, or none.
        kind: `EditForm` or `JobForm`.
    Raises:
        ApiError: 400; `param` names the field.
    """
    for name in fields:
        if name == "lora" or name.startswith("lora["):
            raise invalid("lora: is not supported yet", "lora", "unsupported_field")
    try:
        form = kind.model_validate(joined(fields, "fidelity"))
    except ValidationError as error:
        raise to_api_error(error) from error
    if form.model is not None and form.model not in models:
        served = ", ".join(sorted(models))
        message = f"model: {shown(form.model)} is not served here, but {served}; the field may be left out"
        raise invalid(message, "model", "model_not_found")
    return form


def to_orders(
    form: EditForm, order_id: str, picture: Pixels, mask: bytes, seed: int, tenant: str
) -> tuple[EditOrder, ...]:
    """One order for each of the form's `n` results.

    Args:
        order_id: of the only order; several get `-1`, `-2`, ... appended.
        mask: as `PictureDecoder.picture_and_mask` returns it.
        seed: of the first order, the form's own or one that the caller drew; the next ones count on from it, and 0
            follows the largest one.
        tenant: whose edits they are: the namespace of their records.
    Raises:
        ApiError: 400, the format cannot hold a picture of this size.
    """
    width, height = form.result_size or (picture.width, picture.height)
    if form.output_format == "webp" and max(width, height) > MAX_WEBP_SIDE_PIXELS:
        message = f"a webp's side has {MAX_WEBP_SIDE_PIXELS} pixels at most, the result has {width}x{height}"
        raise invalid(f"output_format: {message}", "output_format")
    first = EditOrder(
        id=order_id,
        picture=picture,
        mask=mask,
        prompt=form.prompt,
        seed=seed,
        steps=form.steps,
        guidance=form.guidance,
        strength=form.strength,
        halo=form.halo,
        refreshes=form.refreshes,
        step_cache=form.step_cache,
        feather=form.feather,
        template_prompt=form.template_prompt,
        template_seed=form.template_seed,
        cache=form.cache,
        crop=form.crop,
        previews=form.partial_images,
        output=Output(form.output_format, form.output_compression, form.result_size),
        priority=form.priority,
        namespace=tenant,
    )
    if form.n == 1:
        return (first,)
    return tuple(replace(first, id=f"{order_id}-{k + 1}", seed=(seed + k) % (MAX_SEED + 1)) for k in range(form.n))


def to_params(form: EditForm, seed: int, model_steps: int) -> dict[str, Any]:
    """All of the form as JSON, with the seed that was chosen.

    Defaults are written out: an edit that was accepted before an upgrade must not change by it.

    Args:
        model_steps: of the model's full schedule, by which refreshes go where the form says nothing of them.
    """
    refreshes = form.refreshes
    if refreshes is None:
        refreshes = default_refreshes(taken_steps(form.steps or model_steps, form.strength))
    return form.model_dump(mode="json") | {"seed": seed, "refreshes": refreshes}


def from_params(params: Mapping[str, Any]) -> EditForm:
    """The form that `to_params` was given, with that seed and number of refreshes: it makes the same edits.

    Raises:
        ApiError: 400, a value is not within the limits (any more).
    """
    try:
        return EditForm.model_validate({"refreshes": 0} | dict(params))  # there were none, once
    except ValidationError as error:
        raise to_api_error(error) from error
