"""Templates that clients uploaded to be recorded: warmed one after the other in the background.

The list of them ends with the server, while a cache service keeps their records: after a restart, templates are to be
uploaded anew, and are warm at once where their records are still there.

RegistryError
 +- TooManyWaitingError    so many wait to be warmed that no more are taken for a while
 +- TooManyTemplatesError  some have to be deleted first
 +- PinRefusedError        some have to be unpinned first
 +- PictureGoneError       a template that has to be recorded again, but its picture was not kept
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from instgenie.errors import InstGenIEError, ReplicaError, ReplicaLostError, TooManyPinsError
from instgenie.orders import HeldTemplate, Replica, WarmOrder, WarmReport
from instgenie_server.jobs.kept_tasks import KeptTasks
from instgenie_server.presence import Presence

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # at a template whose replica goes while it is recorded
MAX_TEMPLATES = 20_000
MAX_TEMPLATES_OF_TENANT = 5_000
MAX_WAITING = 256
MAX_WAITING_BYTES = 1_000_000_000  # of decoded pictures
MAX_KEPT_BYTES = 250_000_000  # of decoded pictures of templates that were warmed
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 2.0

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

    @property
    def is_under_way(self) -> bool:
        """Whether it is being recorded, or will be."""
        return self.stage in ("queued", "warming")


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


class PinRefusedError(RegistryError):
    """As many records are pinned as may be."""


class PictureGoneError(RegistryError):
    """The template cannot be recorded again."""


class TemplateRegistry:
    """All uploaded templates of a server. Methods belong to one event loop; `run` is its task."""

    def __init__(
        self, replica: Replica, presence: Presence | None = None, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """Args:
        presence: of the replica; None is one that never goes.
        retry_seconds: until records that could not be dropped are to be dropped again.
        """
        self._replica, self._presence, self._retry_seconds = replica, presence or Presence(), retry_seconds
        self._templates: dict[str, WarmTemplate] = {}
        self._by_content: dict[tuple[str, str], WarmTemplate] = {}
        self._waiting: dict[str, tuple[WarmTemplate, WarmOrder]] = {}  # by id, in the order of their turns
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._kept: dict[str, WarmOrder] = {}  # by id, of templates that were warmed: pinning may record them again
        self._kept_bytes = 0
        self._running: tuple[WarmTemplate, asyncio.Task[None]] | None = None
        self._undropped: dict[str, WarmTemplate] = {}  # by id, of deleted ones that left records
        self._retrying: asyncio.Task[None] | None = None
        self._tasks = KeptTasks()

    async def add(self, tenant: str, content: str, order: WarmOrder, now: float, pinned: bool = False) -> WarmTemplate:
        """The tenant's template of that content, to be warmed if it is new or its records are not there.

        Raises:
            TooManyWaitingError, TooManyTemplatesError: there is no room for it.
            PinRefusedError: it is there, and not pinned.
        """
        known = self._by_content.get((tenant, content))
        states = await self.states([known] if known else [])  # now, too, what was deleted before is dropped
        while (tenant, content) not in self._by_content and not self._has_room(tenant):
            self._check_waiting(order)
            await self._make_room(tenant)
        template = self._by_content.get((tenant, content))
        if template is None:
            picture = order.picture
            template = WarmTemplate(order.id, tenant, content, picture.width, picture.height, now)
            self._queue(template, order)
            self._templates[template.id] = self._by_content[tenant, content] = template
        elif template is known and states[0].status in ("evicted", "failed") and not template.is_under_way:
            self._queue(template, replace(order, id=template.id))
        if pinned:
            await self._pin(template)
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
        """Drop a template and its records, but for those that another template shares; stop recording it.

        Whoever asked may leave. What cannot be dropped now is dropped later.
        """
        if self._templates.get(template.id) is not template:
            return  # somebody else was faster
        del self._templates[template.id], self._by_content[template.tenant, template.content]
        self._let_go(template)
        _, order = self._waiting.pop(template.id, (template, None))
        if order is not None:
            self._waiting_bytes -= len(order.picture.data)
        if self._running is not None and self._running[0] is template:
            self._running[1].cancel()
        await self._tasks.complete(self._drop(template), f"end of {template.id}")

    async def pin(self, template: WarmTemplate) -> None:
        """Keep a template's records from being evicted. Where some are not there, they are made again, then kept.

        Raises:
            PinRefusedError: too many are kept.
            PictureGoneError: they would have to be, and its picture was not kept.
            TooManyWaitingError: they would have to be, and cannot now.
        """
        was_pinned = template.pinned
        is_whole = await self._pin(template) and template.stage == "warm"
        if is_whole or template.is_under_way or not self._is_pinned(template):
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
        """Let a template's records be evicted again. Whoever asked may leave."""
        template.pinned = False
        await self._tasks.complete(self._unpin_records(template), f"unpinning of {template.id}")

    async def run(self) -> None:
        """Warm what was added, until cancelled."""
        try:
            await self._run()
        finally:
            if self._retrying is not None:
                self._retrying.cancel()
            await self._tasks.close(CLOSE_SECONDS)

    async def _run(self) -> None:
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
            if self._is_pinned(template):  # unless it was unpinned since the report
                await self._pin_records(template, {key})

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
                await self._tasks.complete(self._drop(template), f"end of {template.id}")
        try:
            if template.error is None and self._is_pinned(template) and not await self._pin_all(template):
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

    async def _pin(self, template: WarmTemplate) -> bool:
        """Pin it from now on; whether all of its records are there.

        Raises:
            PinRefusedError: it is as it was before.
        """
        was_pinned, template.pinned = template.pinned, True
        try:
            return await self._pin_all(template)
        except TooManyPinsError as error:
            if not was_pinned:
                await self.unpin(template)
            raise PinRefusedError(f"{template.id} cannot be pinned: {error}") from error

    async def _pin_all(self, template: WarmTemplate) -> bool:
        """Pin what was recorded; whether all of it is there."""
        return await self._pin_records(template, set(template.keys.values()))

    async def _pin_records(self, template: WarmTemplate, keys: set[str]) -> bool:
        """Pin some of a template's records; whether they are there.

        That may wait for a replica: what was unpinned meanwhile, before it was pinned, is unpinned again.
        """
        is_whole = await self._replica.pin(keys) == len(keys)
        if not self._is_pinned(template):
            await self._unpin_records(template)
        return is_whole

    async def _unpin_records(self, template: WarmTemplate) -> None:
        """Unpin what was recorded, but for what another template pins."""
        others = {key for other in self._templates.values() if other.pinned for key in other.keys.values()}
        await self._replica.unpin([key for key in template.keys.values() if key not in others])

    def _is_pinned(self, template: WarmTemplate) -> bool:
        """Whether its records are to be kept: it is pinned, and not deleted."""
        return template.pinned and self._templates.get(template.id) is template

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

    def _has_room(self, tenant: str) -> bool:
        return len(self.list(tenant)) < MAX_TEMPLATES_OF_TENANT and len(self._templates) < MAX_TEMPLATES

    async def _make_room(self, tenant: str) -> None:
        """Have one more template fit into the bounds, unless others come meanwhile: failed ones are dropped for it,
        then evicted ones.
        """
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

    async def _drop(self, deleted: WarmTemplate) -> None:
        """Drop what a deleted template has left, but for what another one shares.

        Where that fails it is tried again: nobody can ask for it any more.
        """
        try:
            if deleted.pinned:
                await self._unpin_records(deleted)
            shared = {key for other in self._templates.values() for key in other.keys.values()}
            await self._replica.forget([key for key in deleted.keys.values() if key not in shared])
        except ReplicaError as error:
            if deleted.id not in self._undropped:
                log.warning("records of %s are dropped later: %s", deleted.id, error)
            self._undropped[deleted.id] = deleted
            if self._retrying is None or self._retrying.done():
                self._retrying = self._tasks.start(self._drop_later(), "dropping records of deleted templates")
        else:
            self._undropped.pop(deleted.id, None)

    async def _drop_later(self) -> None:
        while self._undropped:
            await asyncio.sleep(self._retry_seconds)
            for deleted in tuple(self._undropped.values()):
                await self._drop(deleted)


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
