"""Orders in the engine's terms."""

from __future__ import annotations

import numpy as np
from PIL import Image

from instgenie.errors import MaskError, PictureError
from instgenie.orders import EditOrder, Pixels, WarmOrder
from instgenie.request import EditRequest
from instgenie.warm_request import WarmRequest


def to_picture(pixels: Pixels) -> Image.Image:
    """The picture of those bytes."""
    picture = Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)
    if pixels.icc_profile is not None:
        picture.info["icc_profile"] = pixels.icc_profile
    return picture


def to_request(order: EditOrder) -> EditRequest:
    """The order in the engine's terms.

    Raises:
        InvalidInputError: a value outside its limits.
    """
    picture = order.picture
    expected = picture.width * picture.height
    if len(order.mask) != expected:
        raise MaskError(
            "mask", f"{len(order.mask)} bytes, a picture of {picture.width}x{picture.height} has {expected}"
        )
    if len(picture.data) != expected * len(picture.mode):
        raise PictureError(
            "picture", f"{len(picture.data)} bytes are not {picture.width}x{picture.height} {picture.mode}"
        )
    mask = np.frombuffer(order.mask, np.uint8).reshape(picture.height, picture.width) > 0
    return EditRequest(
        picture=to_picture(order.picture),
        mask=mask,
        prompt=order.prompt,
        seed=order.seed,
        steps=order.steps,
        guidance=order.guidance,
        strength=order.strength,
        halo=order.halo,
        refreshes=order.refreshes,
        step_cache=order.step_cache,
        feather=order.feather,
        template_prompt=order.template_prompt,
        template_seed=order.template_seed,
        cached=order.cache != "off",
        must_hit=order.cache == "only",
        crop=order.crop,
        namespace=order.namespace,
    )


def to_warm_request(order: WarmOrder) -> WarmRequest:
    """The order in the engine's terms.

    Raises:
        InvalidInputError: a value outside its limits.
    """
    return WarmRequest(
        picture=to_picture(order.picture),
        boxes=order.boxes,
        max_windows=order.max_windows,
        steps=order.steps,
        guidance=order.guidance,
        template_prompt=order.template_prompt,
        template_seed=order.template_seed,
        namespace=order.namespace,
    )
