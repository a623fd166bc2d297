"""A replica that comes and goes."""

from __future__ import annotations

import asyncio

from instgenie_server.presence import Presence


async def test_who_waits_is_woken_and_who_watches_is_called() -> None:
    presence = Presence(is_there=False)
    seen: list[bool] = []
    presence.watch(lambda: seen.append(presence.is_there))
    waiting = asyncio.create_task(presence.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    for is_there in (False, True, True, False, True):
        presence.change(is_there=is_there)
    assert seen == [True, False, True]
    await waiting


async def test_one_that_was_there_from_the_start() -> None:
    presence = Presence()
    await presence.wait()
    presence.change(is_there=False)
    presence.change(is_there=True)
    await presence.wait()
