"""A service store on a stage: the other side says what a test wants it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from instgenie_cache.client.cache_client import NO_LEASE
from instgenie_cache.client.service_link import LinkSettings
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.client.service_writer import ServiceWriter
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.wire.messages import (
    Commit,
    Create,
    CreateReply,
    Fetch,
    FetchReply,
    Lease,
    LeaseReply,
    Put,
    Release,
    Stat,
    StatReply,
)
from tests.cache.fake_service import FakePeer, FakeService, fake_service
from tests.cache.service_records import QUICK, SIZE, Result, wait_until
from tests.cache.templates import step_slab


def later(call: Callable[..., Result], *arguments: object) -> asyncio.Future[Result]:
    return asyncio.ensure_future(asyncio.to_thread(call, *arguments))


class Scene:
    """A store, and the service's ends of its connections: the second one is for writers."""

    def __init__(self, service: FakeService, store: ServiceStore, peer: FakePeer) -> None:
        self.service, self.store, self.peer = service, store, peer
        self._writing: FakePeer | None = None

    @property
    def writing(self) -> FakePeer:
        """There is one once something was created."""
        assert self._writing is not None
        return self._writing

    async def lease(self, steps: int = SIZE.steps) -> Any:
        found = later(self.store.lease, "a")
        number, _ = await self.peer.expect(Lease)
        reply = LeaseReply(lease=1, tier="host", steps=steps, blocks=SIZE.blocks, record_bytes=SIZE.record_bytes)
        self.peer.reply(number, reply)
        return await found

    async def create(self, size: TemplateSize = SIZE) -> Any:
        writer = later(self.store.create, "a", size)
        number, request = await self.peer.expect(Release)
        assert request == Release(lease=NO_LEASE)
        self.peer.reply(number)
        if self._writing is None or self._writing.connection.is_closed:
            self._writing = await self.service.peer()
        number, _ = await self._writing.expect(Create)
        self._writing.reply(number, CreateReply(writer=1))
        return await writer

    async def say_alive(self, peer: FakePeer | None = None) -> None:
        """Answer the store that asks whether anybody is there."""
        peer = peer or self.peer
        number, request = await peer.expect(Release)
        assert request == Release(lease=NO_LEASE)
        peer.reply(number)
        await later(wait_until, lambda: self.store.is_connected)

    async def send_step(self, step: int) -> None:
        number, request = await self.peer.expect(Fetch)
        assert request.step == step
        self.peer.reply(number, FetchReply(lost=False), [step_bytes(step)])


@asynccontextmanager
async def staged(path: Path, settings: LinkSettings = QUICK, **service: Any) -> AsyncIterator[Scene]:
    async with fake_service(path, **service) as listening:
        store = await later(partial(ServiceStore.open, listening.address, client="test", settings=settings))
        try:
            yield Scene(listening, store, await listening.peer())
        finally:
            await later(store.close)


def step_bytes(step: int) -> bytes:
    return bytes(step_slab("a", SIZE, step).read(0, SIZE.step_bytes))


def has_failed(writer: ServiceWriter) -> bool:
    return writer._error is not None


async def answer_one(peer: FakePeer) -> None:
    number, _ = await peer.expect(Put)
    peer.reply(number)


async def commit_nothing(scene: Scene) -> None:
    writer = await scene.create(TemplateSize(0, 0, 0))
    committing = later(writer.commit)
    scene.writing.reply((await scene.writing.expect(Commit))[0])
    await committing


async def settled(scene: Scene) -> None:
    """What the store has sent so far has come."""
    asking = later(scene.store.stats)
    number, _ = await scene.peer.expect(Stat)
    counts = dict.fromkeys(("templates", "used_bytes", "budget_bytes", "hits", "misses", "evicted_templates"), 0)
    scene.peer.reply(number, StatReply(**counts))
    await asking
