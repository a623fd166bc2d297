"""An order as the balancer sees it. Importable without torch."""

from __future__ import annotations

import numpy as np

from instgenie.balancer.edit_demand import EditDemand
from instgenie.order_work import order_work
from instgenie.orders import EditOrder, ModelCard, Pixels, WarmOrder
from instgenie.window import Box
from instgenie_cache import content_digest


def order_demand(order: EditOrder, card: ModelCard) -> EditDemand:
    """What an order asks of whichever replica it goes to.

    It takes about a millisecond for a picture of a million pixels, mostly for hashing those that the model will see;
    some 50 ms for one of 64 million.

    Args:
        card: of any replica: all of a fleet serve the same model.
    """
    work = order_work(order, card)
    # Of another size than the usual canvas, a step's records are as much larger or smaller.
    canvas_tokens = (card.canvas_pixels // card.patch) ** 2
    return EditDemand(
        id=order.id,
        template=template_name(order, card, work.window.box),
        steps=work.steps,
        extrapolated=work.extrapolated,
        passes=work.passes,
        text_tokens=card.text_tokens,
        active_tokens=work.mean_tokens,  # steps are priced alike
        total_tokens=work.total_tokens,
        step_bytes=card.step_bytes * work.total_tokens // canvas_tokens,
        cache="off" if work.is_dense else order.cache,
    )


def template_name(order: EditOrder | WarmOrder, card: ModelCard, box: Box) -> str:
    """32 hex digits that two orders share if they share a template.

    Not the template's key: that is a hash of the canvas, to which only the replica scales the window. Two uploads of
    other pixels that are the same canvas have two names.

    Args:
        box: of the window, as in `WarmReport`: its size fixes that of the canvas.
    """
    left, top, right, bottom = box
    scale = card.guidance if order.guidance is None else order.guidance
    settings = (
        order.namespace,
        card.revision,
        card.dtype,
        card.steps if order.steps is None else order.steps,  # of the whole schedule: strength is no part of it
        order.template_seed,
        order.template_prompt,
        float(scale) if card.distilled else None,
        order.picture.mode,
        (right - left, bottom - top),
    )
    return content_digest(_pixels(order.picture, box), repr(settings).encode())


def _pixels(picture: Pixels, box: Box) -> bytes | memoryview:
    """Those in the box. Of a picture that will be refused, whatever it has."""
    channels, (left, top, right, bottom) = len(picture.mode), box
    is_whole = box == (0, 0, picture.width, picture.height)
    if is_whole or len(picture.data) != picture.width * picture.height * channels:
        return picture.data
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, channels)
    return np.ascontiguousarray(pixels[top:bottom, left:right]).reshape(-1).data
