"""The inpainting part of AUTOMATIC1111's img2img request, turned into an edit of ours."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.api_error import ApiError, invalid, too_large
from instgenie_server.intake.body import read_json_body
from instgenie_server.intake.edit_form import (
    MAX_FEATHER_PIXELS,
    MAX_RESULTS,
    MAX_SEED,
    EditForm,
    Guidance,
    Prompt,
    Steps,
    Strength,
)
from instgenie_server.intake.field_values import Flag, check_size, complaint, number, whole
from instgenie_server.intake.uploads import Uploads
from instgenie_server.intake.validation_error import to_api_error
from instgenie_server.settings import LimitSettings

_LARGE_BODY_BYTES = 1_000_000  # beyond it, reading takes longer than handing the work to a thread
_Base64 = Annotated[str, Field(json_schema_extra={"format": "byte"})]  # as OpenAPI calls it
_Blur = Annotated[float, Field(ge=0, le=MAX_FEATHER_PIXELS), number]
_Count = Annotated[int, Field(ge=1, le=MAX_RESULTS), whole]


class Img2ImgForm(BaseModel):
    """A request of `POST /sdapi/v1/img2img`. Other fields of AUTOMATIC1111 are accepted and have no effect.

    Where its API has a default that tells how the picture looks (strength, blur), it holds here, too; steps and
    guidance are the model's own.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    init_images: list[_Base64] = Field(
        min_length=1, max_length=1, description="One PNG, JPEG or WebP in base64; a data: URL is accepted."
    )
    mask: _Base64 | None = Field(
        default=None,
        description="Picture of the same size in base64: white is edited. Absent: transparent parts of the image.",
    )
    inpainting_mask_invert: Flag = Field(default=False, description="Black is edited.")
    mask_blur: _Blur = Field(default=4, description="Width in pixels of the blended border.")
    prompt: Prompt = ""
    steps: Steps | None = None
    cfg_scale: Guidance | None = None
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED), whole] = Field(default=-1, description="-1 draws one.")
    denoising_strength: Strength = 0.75
    width: Annotated[int, whole] | None = Field(
        default=None, description="Of the result; absent, as height is, keeps the upload's size."
    )
    height: Annotated[int, whole] | None = None
    batch_size: _Count = 1
    n_iter: _Count = Field(default=1, description="With batch_size: the number of results.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )

    @field_validator("height")
    @classmethod
    def _size(cls, height: int | None, info: ValidationInfo) -> int | None:
        width = info.data.get("width")
        if height is not None and width is not None:
            check_size(width, height)
        return height

    @field_validator("n_iter")
    @classmethod
    def _results(cls, n_iter: int, info: ValidationInfo) -> int:
        results = n_iter * info.data.get("batch_size", 1)
        if results > MAX_RESULTS:
            raise complaint(f"times batch_size is {results}, more than {MAX_RESULTS}")
        return n_iter

    def edit_form(self) -> EditForm:
        """The same in fields of ours.

        Raises:
            ApiError: 400, width without height or the other way round.
        """
        if (self.width is None) != (self.height is None):
            absent, given = ("width", "height") if self.width is None else ("height", "width")
            raise invalid(f"{absent}: is required where {given} is given", absent, "missing_field")
        return EditForm(
            prompt=self.prompt,
            n=self.n_iter * self.batch_size,
            size="auto" if self.width is None else f"{self.width}x{self.height}",
            seed=None if self.seed == -1 else self.seed,
            steps=self.steps,
            guidance=self.cfg_scale,
            strength=self.denoising_strength,
            feather=round(self.mask_blur),
            mask_mode="auto" if self.mask is None else "luminance",
        )

    def uploads(self, part_bytes: int) -> Uploads:
        """The pictures' files; takes a while for large ones.

        Raises:
            ApiError: 400 not base64, 413 a file is larger than `part_bytes`.
        """
        mask = None if self.mask is None else decode_base64(self.mask, "mask", part_bytes)
        return Uploads(decode_base64(self.init_images[0], "init_images", part_bytes), mask)


@dataclass(frozen=True, slots=True)
class Img2Img:
    """An img2img request in terms of ours.

    Attributes:
        invert_mask: of the mask, black is edited.
        parameters: the request without its pictures, as the reply repeats it.
    """

    form: EditForm
    uploads: Uploads
    invert_mask: bool
    parameters: dict[str, Any]


async def read_img2img(request: web.Request, limits: LimitSettings, uploads: UploadPermits) -> Img2Img:
    """Read the body of an img2img request.

    Raises:
        ApiError: 400 with `param`, 408 too slow, 413 too large, 429 too many uploads at once.
    """
    body = await read_json_body(request, limits, uploads)
    if len(body) > _LARGE_BODY_BYTES:
        return await asyncio.to_thread(parse_img2img, body, limits.part_bytes)
    return parse_img2img(body, limits.part_bytes)


def parse_img2img(body: bytes, part_bytes: int) -> Img2Img:
    """What the body of an img2img request asks for; takes a while where it is large.

    Args:
        part_bytes: largest picture file.
    Raises:
        ApiError: 400 with `param`, 413 a picture is too large.
    """
    try:
        request = Img2ImgForm.model_validate_json(body)
    except ValidationError as error:
        raise to_api_error(error) from error
    parameters = request.model_dump(mode="json", exclude={"init_images", "mask"})
    return Img2Img(request.edit_form(), request.uploads(part_bytes), request.inpainting_mask_invert, parameters)


def decode_base64(text: str, param: str, max_bytes: int) -> bytes:
    """The bytes of a base64 text, with or without `data:...;base64,` before it. Addresses are never fetched.

    Raises:
        ApiError: 400 not base64, 413 more than `max_bytes`.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise _not_base64(param, "its data: URL does not say ;base64,")
    text = "".join(text.split())  # some encoders break lines
    if len(text) // 4 * 3 > max_bytes + 2:  # the last 2 may be padding
        raise too_large(f"{param}: larger than {max_bytes:,} bytes", param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_base64(param, str(error).lower()) from error
    if len(data) > max_bytes:
        raise too_large(f"{param}: larger than {max_bytes:,} bytes", param)
    return data


def _not_base64(param: str, why: str) -> ApiError:
    return invalid(f"{param}: is not base64: {why}", param, "not_base64")
