"""Templates that are to be recorded before they are edited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from instgenie.parameter_checks import (
    MAX_WINDOWS,
    check_box,
    check_namespace,
    check_picture,
    check_template,
    check_whole,
)
from instgenie.window import Box, Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WarmRequest:
    """A picture whose templates are to be recorded before it is edited.

    Attributes:
        picture: RGB or RGBA.
        boxes: what will be edited (left, top, right, bottom, in pixels): the windows of edits whose masks have these
            bounding boxes are recorded. None is every window, the largest first, up to `max_windows`.
        steps, guidance: None takes the model's own. Guidance counts only for models that have it distilled.
        namespace: whose templates they are, as of `EditRequest`.

    Raises:
        PictureError, ParameterError: as of `EditRequest`.
    """

    picture: Image.Image
    boxes: tuple[Box, ...] | None = None
    max_windows: int = 64
    steps: int | None = None
    guidance: float | None = None
    template_seed: int = 0
    template_prompt: str = ""
    namespace: str = ""

    def __post_init__(self) -> None:
        check_picture(self.picture)
        for box in self.boxes or ():
            check_box(box, *self.picture.size)
        check_whole("max_windows", self.max_windows, 1, MAX_WINDOWS)
        check_template(self.steps, self.guidance, self.template_seed, self.template_prompt)
        check_namespace(self.namespace)


WarmOutcome = Literal["hit", "cold", "refused"]


@dataclass(frozen=True, slots=True)
class WarmedWindow:
    """One window of a `WarmRequest`: the `number`-th of `windows`, 1 is the first.

    Attributes:
        key: template key.
        num_bytes: of its records.
        outcome: hit: it was recorded before. cold: now. refused: the cache did not take it.
    """

    number: int
    windows: int
    window: Window
    key: str
    num_bytes: int
    outcome: WarmOutcome
