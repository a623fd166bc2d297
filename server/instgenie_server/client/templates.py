"""Templates on a server: upload one and wait until it is warm, list them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from instgenie_server.client.connection import Connection
from instgenie_server.client.errors import ReplyError
from instgenie_server.client.form import upload_form

POLL_SECONDS = (0.05, 1.0)  # the first pause between two looks, and the longest

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """What a template is recorded for. None and defaults leave it to the server.

    Attributes:
        boxes: (left, top, right, bottom) in pixels of what will be edited; none is all of the picture.
    """

    boxes: tuple[Box, ...] = ()
    max_windows: int | None = None
    steps: int | None = None
    guidance: float | None = None
    template_prompt: str = ""
    template_seed: int = 0
    pin: bool = False

    def fields(self) -> dict[str, str]:
        """The fields of the upload's form."""
        given: dict[str, Any] = {
            "boxes": json.dumps(self.boxes) if self.boxes else None,
            "max_windows": self.max_windows,
            "steps": self.steps,
            "guidance": self.guidance,
            "template_prompt": self.template_prompt or None,
            "template_seed": self.template_seed or None,
            "pin": "true" if self.pin else None,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


async def warm_template(
    server: Connection,
    image: bytes,
    settings: TemplateSettings,
    report: Callable[[int, int | None], None] = lambda _done, _windows: None,
) -> dict[str, Any]:
    """Upload a picture and wait until its records are made: the template as `GET /v1/templates/{id}` tells it.

    Args:
        report: told how many windows are recorded and, once that is known, of how many.
    Raises:
        RemoteError: the server is out of reach, refuses the picture, or cannot record it.
    """
    template = await server.json("POST", "/v1/templates", upload_form(settings.fields(), {"image": image}))
    pause, longest = POLL_SECONDS
    while template.get("status") in ("queued", "warming"):
        await asyncio.sleep(pause)
        pause = min(longest, 1.5 * pause)
        template = await server.json("GET", f"/v1/templates/{template['id']}")
        report(template.get("windows_done", 0), template.get("windows"))
    if template.get("status") != "warm":
        told = template.get("error") or {}
        message = told.get("message", f"the template is {template.get('status')}: has the cache no room for it?")
        raise ReplyError(200, message, told.get("code"))
    return template


async def list_templates(server: Connection) -> list[dict[str, Any]]:
    """The caller's templates, newest first."""
    found: list[dict[str, Any]] = (await server.json("GET", "/v1/templates")).get("data", [])
    return found
