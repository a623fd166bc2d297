"""Templates on a fleet whose members come and go, hang and refuse: what was deleted is gone, what is pinned stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from instgenie.errors import ReplicaError, TooManyPinsError
from instgenie.orders import HeldTemplate, Pixels, WarmOrder
from instgenie_server.fleet.fleet_replica import FleetSettings
from instgenie_server.template_registry import (
    PinRefusedError,
    TemplateRegistry,
    TooManyWaitingError,
    WarmTemplate,
)
from tests.server.fleet.crew import Crew, crew, until
from tests.server.replica_process.fake_host import FakeLink
from tests.server.routes.scripted_replica import ScriptedReplica, ScriptedWarm

PATIENT = FleetSettings(answer_seconds=60)


def an_order(template_id: str = "t") -> WarmOrder:
    """A template of one pixel."""
    return WarmOrder(id=template_id, picture=Pixels(1, 1, "RGB", bytes(3)))


@asynccontextmanager
async def a_registry(
    members: int = 1, settings: FleetSettings | None = None, retry_seconds: float = 0.001
) -> AsyncIterator[tuple[TemplateRegistry, Crew]]:
    """A registry that runs, and its fleet."""
    async with crew(members, settings) as fleet:
        registry = TemplateRegistry(fleet.fleet, fleet.fleet.presence, retry_seconds)
        running = asyncio.create_task(registry.run())
        yield registry, fleet
        running.cancel()
        await asyncio.wait({running})


async def begun(fleet: Crew) -> ScriptedWarm:
    """What is recorded next, on whichever member."""

    def asked() -> list[FakeLink]:
        links = [place.link for place in fleet.places if place.replica.presence.is_there]
        return [link for link in links if not link.warms.empty()]

    await until(lambda: bool(asked()))
    return await asked()[0].warms.get()


async def recorded(
    registry: TemplateRegistry, fleet: Crew, *keys: str, content: str = "", pinned: bool = False
) -> WarmTemplate:
    """A template that was warmed, with records under these keys."""
    content = content or keys[0]
    template = await registry.add("ann", content, an_order(f"template {content}"), 0.0, pinned)
    warm = await begun(fleet)
    for number, key in enumerate(keys, start=1):
        warm.window(number, len(keys), key)
    warm.succeed()
    await until(lambda: template.stage == "warm")
    return template


class Slow:
    """A question that a replica answers once it is let: put in place of a method of it."""

    def __init__(self, link: ScriptedReplica, name: str) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._answer = getattr(link, name)
        setattr(link, name, self)

    async def __call__(self, keys: Iterable[str]) -> object:
        keys = list(keys)
        if keys:
            self.asked.set()
            await self.go.wait()
        return await self._answer(keys)


class Refusing:
    """A cache that drops nothing until it is let: put in place of a replica's `forget`."""

    def __init__(self, link: ScriptedReplica) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._forget = link.forget
        link.forget = self  # type: ignore[method-assign]

    async def __call__(self, keys: Iterable[str]) -> None:
        self.asked.set()
        if not self.go.is_set():
            raise ReplicaError("1 templates cannot be dropped: 1024 deletions wait")
        await self._forget(keys)


# Deleted.


async def test_what_is_deleted_while_no_replica_is_there_is_gone_when_one_is_back() -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k", pinned=True)
        await fleet[1].kill()
        await registry.delete(template)
        await fleet[1].run()
        assert fleet[1].link.forgotten == ["k"]
        assert fleet[1].link.pinned == set()


@pytest.mark.parametrize("question", ["unpin", "forget"])
async def test_who_deletes_need_not_stay(question: str) -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k", pinned=True)
        slow = Slow(fleet[1].link, question)
        deleting = asyncio.create_task(registry.delete(template))
        await slow.asked.wait()
        deleting.cancel()
        await asyncio.wait({deleting})
        slow.go.set()
        await until(lambda: fleet[1].link.forgotten == ["k"])
        assert fleet[1].link.pinned == set()


async def test_a_deletion_that_the_cache_refuses_is_made_later() -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k", "l")
        refusing = Refusing(fleet[1].link)
        await registry.delete(template)
        assert registry.list("ann") == []
        refusing.asked.clear()
        await refusing.asked.wait()  # once more
        refusing.go.set()
        await until(lambda: sorted(fleet[1].link.forgotten) == ["k", "l"])


async def test_a_deletion_that_is_made_later_spares_what_another_template_has_by_then() -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k", "l")
        refusing = Refusing(fleet[1].link)
        await registry.delete(template)
        again = await recorded(registry, fleet, "k")
        refusing.go.set()
        await until(lambda: bool(fleet[1].link.forgotten))
        assert fleet[1].link.forgotten == ["l"]
        assert (await registry.states([again]))[0].status == "warm"


async def test_the_registry_ends_though_a_deletion_is_refused() -> None:
    async with a_registry(retry_seconds=3600) as (registry, fleet):
        template = await recorded(registry, fleet, "k")
        Refusing(fleet[1].link)
        await registry.delete(template)


async def test_a_member_that_returns_drops_nothing_that_was_recorded_since() -> None:
    """Of a cache that both share."""
    async with a_registry(members=2) as (registry, fleet):
        shared: dict[str, HeldTemplate] = {}
        for place in fleet.places:
            place.link.records = place.host.records = shared
        deleted = await recorded(registry, fleet, "k", "l")
        await fleet[2].kill()
        await registry.delete(deleted)
        again = await recorded(registry, fleet, "k", pinned=True)
        await fleet[2].run()
        assert (await registry.states([again]))[0].status == "warm"
        assert (fleet[2].link.forgotten, fleet[2].link.pinned) == (["l"], {"k"})


# Pinned, and not any more.


async def test_a_pin_that_waits_for_a_replica_is_not_made_after_it_was_taken_back() -> None:
    async with a_registry(settings=PATIENT) as (registry, fleet):
        template = await recorded(registry, fleet, "k")
        await fleet[1].kill()
        pinning = asyncio.create_task(registry.pin(template))
        await until(lambda: template.pinned)
        await registry.unpin(template)
        await fleet[1].run()
        await pinning
        assert (template.pinned, fleet[1].link.pinned) == (False, set())
        await fleet[1].kill()
        await fleet[1].run()
        assert fleet[1].link.pinned == set()


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_an_upload_that_pins_does_not_outlast_who_takes_it_back(is_deleted: bool) -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k")
        slow = Slow(fleet[1].link, "pin")
        pinning = asyncio.create_task(registry.add("ann", "k", an_order("again"), 0.0, pinned=True))
        await slow.asked.wait()
        await (registry.delete(template) if is_deleted else registry.unpin(template))
        slow.go.set()
        assert await pinning is template
        assert fleet[1].link.pinned == set()


async def test_one_that_is_unpinned_as_a_window_of_it_is_pinned() -> None:
    async with a_registry() as (registry, fleet):
        template = await registry.add("ann", "k", an_order(), 0.0, pinned=True)
        slow = Slow(fleet[1].link, "pin")
        warm = await begun(fleet)
        warm.window(1, 1, "k")
        await slow.asked.wait()
        await registry.unpin(template)
        slow.go.set()
        warm.succeed()
        await until(lambda: template.stage == "warm")
        assert fleet[1].link.pinned == set()


async def test_one_that_is_unpinned_as_its_recording_ends() -> None:
    async with a_registry() as (registry, fleet):
        template = await registry.add("ann", "k", an_order(), 0.0, pinned=True)
        warm = await begun(fleet)
        warm.window(1, 1, "k")
        await until(lambda: fleet[1].link.pinned == {"k"})
        slow = Slow(fleet[1].link, "pin")
        warm.succeed()
        await slow.asked.wait()
        await registry.unpin(template)
        slow.go.set()
        await until(lambda: template.stage == "warm")
        assert fleet[1].link.pinned == set()


@pytest.mark.parametrize("is_upload", [False, True])
async def test_a_pin_that_is_refused_leaves_it_as_it_was(is_upload: bool) -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k")
        pin = fleet[1].link.pin

        async def refuse(_: Iterable[str]) -> int:
            raise TooManyPinsError("2 templates are pinned, 2 may be")

        fleet[1].link.pin = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(PinRefusedError, match="template k cannot be pinned: 2 templates are pinned, 2 may be"):
            await (registry.add("ann", "k", an_order(), 0.0, pinned=True) if is_upload else registry.pin(template))
        assert not template.pinned
        fleet[1].link.pin = pin  # type: ignore[method-assign]
        await fleet[1].kill()
        await fleet[1].run()
        assert fleet[1].link.pinned == set()
        await registry.pin(template)
        fleet[1].link.pin = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(PinRefusedError):
            await registry.pin(template)
        assert template.pinned


# Uploaded.


async def test_a_question_about_one_template_keeps_no_other_upload_waiting() -> None:
    async with a_registry() as (registry, fleet):
        template = await recorded(registry, fleet, "k")
        slow = Slow(fleet[1].link, "held")
        known = asyncio.create_task(registry.add("ann", "k", an_order("again"), 0.0))
        await slow.asked.wait()
        async with asyncio.timeout(10):
            other = await registry.add("bob", "k", an_order("of bob"), 0.0)
        assert registry.list("bob") == [other]
        slow.go.set()
        assert await known is template


async def test_two_uploads_of_the_same_that_wait_for_room_make_one_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_TEMPLATES_OF_TENANT", 1)
    async with a_registry() as (registry, fleet):
        await recorded(registry, fleet, "old")
        fleet[1].link.evict("old")
        slow = Slow(fleet[1].link, "held")
        adding = [asyncio.create_task(registry.add("ann", "k", an_order(name), 0.0)) for name in "ab"]
        await slow.asked.wait()
        slow.go.set()
        first, second = await asyncio.gather(*adding)
        assert first is second
        assert registry.list("ann") == [first]


async def test_an_upload_whose_turn_to_wait_was_taken_meanwhile_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_TEMPLATES_OF_TENANT", 2)
    async with a_registry() as (registry, fleet):
        evicted = [await recorded(registry, fleet, key) for key in ("a", "b")]
        fleet[1].link.evict("a", "b")
        await registry.add("bob", "c", an_order("c"), 0.0)
        warm = await begun(fleet)  # the others wait
        monkeypatch.setattr("instgenie_server.template_registry.MAX_WAITING", 1)
        slow = Slow(fleet[1].link, "held")
        adding = asyncio.create_task(registry.add("ann", "new", an_order("new"), 0.0))
        await slow.asked.wait()
        await registry.pin(evicted[1])
        slow.go.set()
        with pytest.raises(TooManyWaitingError):
            await adding
        warm.succeed()
        (await begun(fleet)).succeed()
        again = await registry.add("ann", "new", an_order("again"), 0.0)
        (await begun(fleet)).succeed()
        await until(lambda: again.stage == "warm")
        assert registry.list("ann") == [again, evicted[1]]
