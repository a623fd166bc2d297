"""What an order will have a replica compute, told from the order alone. Importable without torch."""

from __future__ import annotations

from math import ceil

import numpy as np

from instgenie.edit_cost import EditWork, edit_work
from instgenie.mask import bounding_box
from instgenie.orders import EditOrder, ModelCard
from instgenie.window import choose_window


def predicted_work(order: EditOrder, model: ModelCard) -> EditWork:
    """The work of an edit whose template is warm; active tokens are those of the mask's bounding box.

    Looks at every pixel of the mask: milliseconds for one of 64 million.
    """
    total = (model.canvas_pixels // model.patch) ** 2
    active = total if order.cache == "off" else min(total, _box_tokens(order, model))
    passes = 1 if model.distilled or order.guidance == 1 else 2
    steps = model.steps if order.steps is None else order.steps
    steps = max(1, ceil(steps * min(1.0, max(0.0, order.strength))))
    return edit_work(steps=steps, passes=passes, tokens_active=active, tokens_total=total, is_cold=False)


def _box_tokens(order: EditOrder, model: ModelCard) -> int:
    """Tokens of the mask's bounding box and its halo, in the window that the edit will see."""
    width, height = order.picture.width, order.picture.height
    mask = np.frombuffer(order.mask, np.bool_)
    if mask.size != width * height or not mask.any():
        return 0  # refused later
    box = bounding_box(mask.reshape(height, width)) if order.crop else (0, 0, width, height)
    patch = model.patch
    window = choose_window(width, height, box, patch, (model.canvas_pixels // patch) ** 2)
    across, down = (
        ceil((end - start) * canvas / extent / patch) + 2 * max(0, order.halo)
        for start, end, canvas, extent in (
            (box[0], box[2], window.canvas_width, window.width),
            (box[1], box[3], window.canvas_height, window.height),
        )
    )
    return across * down
