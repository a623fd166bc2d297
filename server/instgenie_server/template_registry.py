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
MAX_WAITING_BYTES = 1_000_000_000  # of decoded pictures


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
        self._waiting_bytes = 0
        self._running: tuple[WarmTemplate, asyncio.Task[None]] | None = None

    def add(self, tenant: str, order: WarmOrder, now: float, pinned: bool = False) -> WarmTemplate:
        """Have a template warmed.

        Raises:
            RegistryFullError: there is no room for it.
        """
        picture = order.picture
        waiting_bytes = self._waiting_bytes + len(picture.data)
        too_many = self._orders.full() or len(self._templates) >= MAX_TEMPLATES
        if too_many or (self._waiting_bytes and waiting_bytes > MAX_WAITING_BYTES):
            raise RegistryFullError
        self._waiting_bytes = waiting_bytes
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
        """Drop a template and its records, but for those that another template shares; stop recording it."""
        if template.pinned:
            self.pin(template, False)
        del self._templates[template.id]
        if self._running is not None and self._running[0] is template:
            self._running[1].cancel()
        self._forget(template)

    def pin(self, template: WarmTemplate, pinned: bool) -> None:
        """Keep a template's records from being evicted, or no longer."""
        template.pinned = pinned
        if pinned:
            self._replica.pin(template.keys)
            return
        others = {key for other in self._templates.values() if other.pinned for key in other.keys}
        self._replica.unpin([key for key in template.keys if key not in others])

    async def run(self) -> None:
        """Warm what was added, until cancelled."""
        while True:
            template, order = await self._orders.get()
            self._waiting_bytes -= len(order.picture.data)
            if template.id in self._templates:
                task = asyncio.create_task(self._warm(template, order), name=f"warm {template.id}")
                self._running = template, task
                try:
                    await asyncio.wait({task})
                finally:
                    self._running = None
                    task.cancel()

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
        except Exception:  # whatever one template does must not keep the others from being recorded
            log.exception("template %s could not be recorded", template.id)
            template.error = "the template could not be recorded"
        finally:
            if template.id not in self._templates:  # windows that were reported after it was deleted
                self._forget(template)
        template.status = "warm" if template.error is None else "failed"

    def _forget(self, deleted: WarmTemplate) -> None:
        shared = {key for other in self._templates.values() for key in other.keys}
        self._replica.forget([key for key in deleted.keys if key not in shared])


def new_template_id() -> str:
    """`template-` and 24 random characters."""
    return f"template-{secrets.token_hex(12)}"
