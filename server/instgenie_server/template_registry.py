"""Templates that clients uploaded to be recorded: warmed one after the other in the background.

The list of them ends with the server, while a cache service keeps their records: after a restart, templates are to be
uploaded anew, and are warm at once where their records are still there.

RegistryError
 +- TooManyWaitingError    so many wait to be warmed that no more are taken for a while
 +- TooManyTemplatesError  some have to be deleted first
 +- PictureGoneError       a template that has to be recorded again, but its picture was not kept
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from instgenie.errors import InstGenIEError, ReplicaError, ReplicaLostError
from instgenie.orders import HeldTemplate, Replica, WarmOrder, WarmReport
from instgenie_server.presence import Presence

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # at a template whose replica goes while it is recorded
MAX_TEMPLATES = 20_000
MAX_TEMPLATES_OF_TENANT = 5_000
MAX_WAITING = 256
MAX_WAITING_BYTES = 1_000_000_000  # of decoded pictures
MAX_KEPT_BYTES = 250_000_000  # of decoded pictures of templates that were warmed

Stage = Literal["queued", "warming", "warm", "failed"]

_NO_ROOM = "the cache has no room for all of the template's records"


@dataclass(slots=True, eq=False)
class WarmTemplate:
    """An uploaded template.

    Attributes:
        content: digest of the picture and of what it is recorded for.
        stage: how far the newest recording is; what is left of a warm one's records, `TemplateRegistry.state` tells.
        windows: how many there are, once known.
        keys: template keys of the windows that were recorded, by number.
        pinned: whether its records are to be kept, also those that are yet to be made.
    """

    id: str
    tenant: str
    content: str
    width: int
    height: int
    created_at: float
    stage: Stage = "queued"
    windows: int | None = None
    keys: dict[int, str] = field(default_factory=dict)
    pinned: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateState:
    """What there is of a template at this moment.

    Attributes:
        status: evicted: it was warm, and some of its records are gone.
        windows_done: windows whose records are there.
        num_bytes: of these records.
        hits: edits that were served from them.
    """

    status: Literal["queued", "warming", "warm", "evicted", "failed"]
    windows_done: int
    num_bytes: int
    hits: int


class RegistryError(Exception):
    """Any of them; the message is for the client."""


class TooManyWaitingError(RegistryError):
    """Too many templates wait to be warmed."""


class TooManyTemplatesError(RegistryError):
    """There are as many as there may be, all of them in use."""


class PictureGoneError(RegistryError):
    """The template cannot be recorded again."""


class TemplateRegistry:
    """All uploaded templates of a server. Methods belong to one event loop; `run` is its task."""

    def __init__(self, replica: Replica, presence: Presence | None = None) -> None:
        """Args:
        presence: of the replica; None is one that never goes.
        """
        self._replica, self._presence = replica, presence or Presence()
        self._adding = asyncio.Lock()
        self._templates: dict[str, WarmTemplate] = {}
        self._by_content: dict[tuple[str, str], WarmTemplate] = {}
        self._waiting: dict[str, tuple[WarmTemplate, WarmOrder]] = {}  # by id, in the order of their turns
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._kept: dict[str, WarmOrder] = {}  # by id, of templates that were warmed: pinning may record them again
        self._kept_bytes = 0
        self._running: tuple[WarmTemplate, asyncio.Task[None]] | None = None

    async def add(self, tenant: str, content: str, order: WarmOrder, now: float, pinned: bool = False) -> WarmTemplate:
        """The tenant's template of that content, to be warmed if it is new or its records are not there.

        Raises:
            TooManyWaitingError, TooManyTemplatesError: there is no room for it.
        """
        async with self._adding:
            known = self._by_content.get((tenant, content))
            states = await self.states([known] if known else [])  # now, too, what was deleted before is dropped
            template = self._by_content.get((tenant, content))
            if template is None:
                self._check_waiting(order)
                await self._make_room(tenant)
                picture = order.picture
                template = WarmTemplate(order.id, tenant, content, picture.width, picture.height, now)
                self._templates[template.id] = self._by_content[tenant, content] = template
                self._queue(template, order)
            elif states[0].status in ("evicted", "failed") and template.stage not in ("queued", "warming"):
                self._queue(template, replace(order, id=template.id))
        if pinned:
            template.pinned = True
            await self._replica.pin(template.keys.values())
        return template

    def get(self, tenant: str, template_id: str) -> WarmTemplate | None:
        """The tenant's template of that id."""
        template = self._templates.get(template_id)
        return template if template is not None and template.tenant == tenant else None

    def list(self, tenant: str) -> list[WarmTemplate]:
        """The tenant's templates, newest first."""
        return [template for template in reversed(self._templates.values()) if template.tenant == tenant]

    async def states(self, templates: Iterable[WarmTemplate]) -> Sequence[TemplateState]:
        """What there is of each."""
        asked = [(template.stage, tuple(template.keys.values())) for template in templates]
        held = await self._replica.held({key for _, keys in asked for key in keys})
        return [_state(stage, keys, held) for stage, keys in asked]

    async def delete(self, template: WarmTemplate) -> None:
        """Drop a template and its records, but for those that another template shares; stop recording it."""
        if self._templates.get(template.id) is not template:
            return  # somebody else was faster
        del self._templates[template.id], self._by_content[template.tenant, template.content]
        self._let_go(template)
        _, order = self._waiting.pop(template.id, (template, None))
        if order is not None:
            self._waiting_bytes -= len(order.picture.data)
        if self._running is not None and self._running[0] is template:
            self._running[1].cancel()
        if template.pinned:
            await self.unpin(template)
        await self._forget(template)

    async def pin(self, template: WarmTemplate) -> None:
        """Keep a template's records from being evicted. Where some are not there, they are made again, then kept.

        Raises:
            PictureGoneError: they would have to be, and its picture was not kept.
            TooManyWaitingError: they would have to be, and cannot now.
        """
        was_pinned, template.pinned = template.pinned, True
        is_whole = await self._pin_records(template) and template.stage == "warm"
        if self._templates.get(template.id) is not template:
            await self.unpin(template)  # it was deleted meanwhile
            return
        if is_whole or template.stage in ("queued", "warming"):
            return
        try:
            order = self._kept.get(template.id)
            if order is None:
                raise PictureGoneError(
                    f"the records of {template.id} are not there, and its picture was not kept: upload it again"
                )
            self._queue(template, order)
        except RegistryError:
            if not was_pinned:
                await self.unpin(template)
            raise

    async def unpin(self, template: WarmTemplate) -> None:
        """Let a template's records be evicted again."""
        template.pinned = False
        others = {key for other in self._templates.values() if other.pinned for key in other.keys.values()}
        await self._replica.unpin([key for key in template.keys.values() if key not in others])

    async def run(self) -> None:
        """Warm what was added, until cancelled."""
        while True:
            template, order = await self._next()
            task = asyncio.create_task(self._warm(template, order), name=f"warm {template.id}")
            self._running = template, task
            try:
                await asyncio.wait({task})
            finally:
                self._running = None
                task.cancel()
                await asyncio.wait({task})  # the replica is closed next
                del order  # the picture does not wait for the next template

    async def _next(self) -> tuple[WarmTemplate, WarmOrder]:
        while not (self._waiting and self._presence.is_there):
            await self._presence.wait()
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
        template, order = self._waiting.pop(next(iter(self._waiting)))
        self._waiting_bytes -= len(order.picture.data)
        return template, order

    async def _warm(self, template: WarmTemplate, order: WarmOrder) -> None:
        pins: list[asyncio.Task[None]] = []

        async def pin_window(key: str) -> None:
            if template.pinned:  # unless it was unpinned since the report
                await self._replica.pin([key])

        def report(window: WarmReport) -> None:
            template.windows = window.windows
            if window.outcome == "refused":
                template.error = _NO_ROOM
                return
            template.keys[window.number] = window.key
            if template.pinned:
                pins.append(asyncio.create_task(pin_window(window.key)))

        template.stage = "warming"
        try:
            await self._recorded(order, report)
        except InstGenIEError as error:
            template.error = str(error)
        except Exception:  # whatever one template does must not keep the others from being recorded
            log.exception("template %s could not be recorded", template.id)
            template.error = "the template could not be recorded"
        finally:
            await asyncio.gather(*pins, return_exceptions=True)  # they are made once more below
            if template.id not in self._templates:  # windows that were reported after it was deleted
                await self._forget(template)
        try:
            if template.error is None and template.pinned and not await self._pin_records(template):
                template.error = _NO_ROOM  # one was evicted before the report of it came
        except ReplicaError as error:
            template.error = str(error)
        template.stage = "warm" if template.error is None else "failed"
        if template.id in self._templates:
            self._keep(template, order)

    async def _recorded(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """Have the replica record it, and the next one where that goes: what was recorded is not recorded again."""
        attempts = 0
        while True:
            await self._presence.wait()
            attempts += 1
            try:
                await self._replica.warm(order, report)
                return
            except ReplicaLostError:
                if attempts == MAX_ATTEMPTS:
                    raise

    async def _pin_records(self, template: WarmTemplate) -> bool:
        """Pin what was recorded; whether all of it is there."""
        keys = set(template.keys.values())
        return await self._replica.pin(keys) == len(keys)

    def _check_waiting(self, order: WarmOrder) -> None:
        too_large = self._waiting_bytes and self._waiting_bytes + len(order.picture.data) > MAX_WAITING_BYTES
        if too_large or len(self._waiting) >= MAX_WAITING:
            raise TooManyWaitingError("too many templates wait to be warmed")

    def _queue(self, template: WarmTemplate, order: WarmOrder) -> None:
        self._check_waiting(order)
        self._let_go(template)
        self._waiting_bytes += len(order.picture.data)
        self._waiting[template.id] = template, order
        self._arrived.set()
        template.stage, template.error = "queued", None

    async def _make_room(self, tenant: str) -> None:
        """See that one more template fits into the bounds: failed ones are dropped for it, then evicted ones."""
        own = self.list(tenant)
        if len(own) >= MAX_TEMPLATES_OF_TENANT and not await self._drop_spent(reversed(own)):
            raise TooManyTemplatesError(
                f"you have {len(own)} templates, and {MAX_TEMPLATES_OF_TENANT} are the most: delete some"
            )
        if len(self._templates) >= MAX_TEMPLATES and not await self._drop_spent(self._templates.values()):
            raise TooManyTemplatesError(f"the server has {MAX_TEMPLATES} templates, and takes no more of them")

    async def _drop_spent(self, oldest_first: Iterable[WarmTemplate]) -> bool:
        """Drop the first failed one, or else the first evicted one; whether there was any."""
        templates = tuple(oldest_first)
        spent = next((template for template in templates if template.stage == "failed"), None)
        if spent is None:
            states = zip(templates, await self.states(templates), strict=True)
            spent = next((template for template, state in states if state.status == "evicted"), None)
        if spent is not None:
            await self.delete(spent)
        return spent is not None

    def _keep(self, template: WarmTemplate, order: WarmOrder) -> None:
        """Keep the picture, and let go of the oldest ones where they are too many bytes."""
        self._kept[template.id] = order
        self._kept_bytes += len(order.picture.data)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._let_go(self._templates[next(iter(self._kept))])

    def _let_go(self, template: WarmTemplate) -> None:
        order = self._kept.pop(template.id, None)
        if order is not None:
            self._kept_bytes -= len(order.picture.data)

    async def _forget(self, deleted: WarmTemplate) -> None:
        shared = {key for other in self._templates.values() for key in other.keys.values()}
        await self._replica.forget([key for key in deleted.keys.values() if key not in shared])


def _state(stage: Stage, keys: tuple[str, ...], held: Mapping[str, HeldTemplate]) -> TemplateState:
    found = {key: held[key] for key in keys}
    windows_done = sum(held[key].num_bytes is not None for key in keys)
    return TemplateState(
        "evicted" if stage == "warm" and windows_done < len(keys) else stage,
        windows_done,
        sum(records.num_bytes or 0 for records in found.values()),
        sum(records.hits for records in found.values()),
    )


def new_template_id() -> str:
    """`template-` and 24 random characters."""
    return f"template-{secrets.token_hex(12)}"
