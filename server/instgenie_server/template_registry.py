"""Templates that clients uploaded to be recorded: warmed one after the other in the background.

Records live in the replica's memory, and so does the list of them: after a restart, templates are to be uploaded anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import Literal

from instgenie.errors import InstGenIEError
from instgenie.orders import Replica, WarmOrder, WarmReport

log = logging.getLogger(__name__)

MAX_TEMPLATES = 10_000
MAX_WAITING = 256


@dataclass(slots=True, eq=False)
class WarmTemplate:
    """An uploaded template.

    Attributes:
        keys: template keys of its windows, as they are recorded.
        windows: how many there are, once known.
    """

    id: str
    tenant: str
    width: int
    height: int
    created_at: float
    status: Literal["queued", "warming", "warm", "failed"] = "queued"
    windows: int | None = None
    keys: list[str] = field(default_factory=list)
    num_bytes: int = 0
    pinned: bool = False
    error: str | None = None


class RegistryFullError(Exception):
    """Too many templates wait to be warmed, or are there."""


class TemplateRegistry:
    """All uploaded templates of a server. Methods belong to one event loop; `run` is its task."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._templates: dict[str, WarmTemplate] = {}
        self._orders: asyncio.Queue[tuple[WarmTemplate, WarmOrder]] = asyncio.Queue(MAX_WAITING)
        self._changed = asyncio.Event()

    def add(self, tenant: str, order: WarmOrder, now: float, pinned: bool = False) -> WarmTemplate:
        """Have a template warmed.

        Raises:
            RegistryFullError: there is no room for it.
        """
        if self._orders.full() or len(self._templates) >= MAX_TEMPLATES:
            raise RegistryFullError
        picture = order.picture
        template = WarmTemplate(order.id, tenant, picture.width, picture.height, now, pinned=pinned)
        self._templates[template.id] = template
        self._orders.put_nowait((template, order))
        return template

    def get(self, tenant: str, template_id: str) -> WarmTemplate | None:
        """The tenant's template of that id."""
        template = self._templates.get(template_id)
        return template if template is not None and template.tenant == tenant else None

    def list(self, tenant: str) -> list[WarmTemplate]:
        """The tenant's templates, newest first."""
        return [template for template in reversed(self._templates.values()) if template.tenant == tenant]

    def delete(self, template: WarmTemplate) -> None:
        """Drop a template and its records, but for those that another template shares."""
        del self._templates[template.id]
        shared = {key for other in self._templates.values() for key in other.keys}
        self._replica.forget([key for key in template.keys if key not in shared])

    def pin(self, template: WarmTemplate, pinned: bool) -> None:
        """Keep a template's records from being evicted, or no longer."""
        template.pinned = pinned
        if pinned:
            self._replica.pin(template.keys)
            return
        others = {key for other in self._templates.values() if other.pinned for key in other.keys}
        self._replica.unpin([key for key in template.keys if key not in others])

    async def settled(self, template: WarmTemplate) -> None:
        """Wait until the template is warm, failed or gone."""
        while template.status in ("queued", "warming") and template.id in self._templates:
            changed = self._changed
            await changed.wait()

    async def run(self) -> None:
        """Warm what was added, until cancelled."""
        while True:
            template, order = await self._orders.get()
            if template.id in self._templates:
                await self._warm(template, order)
            self._wake()

    async def _warm(self, template: WarmTemplate, order: WarmOrder) -> None:
        def report(window: WarmReport) -> None:
            template.windows = window.windows
            if window.outcome == "refused":
                template.error = "the cache has no room for all of the template's records"
                return
            template.keys.append(window.key)
            template.num_bytes += window.num_bytes
            if template.pinned:
                self._replica.pin([window.key])

        template.status = "warming"
        try:
            await self._replica.warm(order, report)
        except InstGenIEError as error:
            template.error = str(error)
        template.status = "warm" if template.error is None else "failed"
        if template.id not in self._templates:  # deleted meanwhile
            self._replica.forget(template.keys)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def new_template_id() -> str:
    """`template-` and 24 random characters."""
    return f"template-{secrets.token_hex(12)}"
