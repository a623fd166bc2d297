"""Many templates, one after the other, without pauses between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instgenie_server.client.connection import Connection
from instgenie_server.client.errors import ReplyError
from instgenie_server.client.templates import TemplateSettings, warm_template

AT_ONCE = 2  # the next upload is there before the server is done with the last one
FATAL = frozenset({401, 403, 404, 429})  # whatever the picture


@dataclass(frozen=True, slots=True)
class WarmItem:
    """A picture file and what it is recorded for."""

    path: Path
    settings: TemplateSettings


@dataclass(frozen=True, slots=True)
class Warmed:
    """What came of an item: a template, an error in words, or neither where it was not wanted."""

    item: WarmItem
    template: dict[str, Any] | None = None
    error: str | None = None


async def warm_all(
    server: Connection,
    items: Iterable[WarmItem],
    done: Callable[[Warmed], None],
    report: Callable[[WarmItem, int, int | None], None] = lambda _item, _done, _windows: None,
    is_wanted: Callable[[WarmItem, bytes], bool] = lambda _item, _image: True,
) -> None:
    """Warm all items; a picture that cannot be used is told to `done`, and the others go on.

    Args:
        items: taken one at a time, as room comes up.
        report: told how many windows of an item are recorded, of how many.
        is_wanted: asked with the content of the file whether to send it; called in the thread that reads it.
    Raises:
        RemoteError: the server is out of reach, or lets the caller do nothing.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            done(await _warmed(server, item, report, is_wanted))

    workers = [asyncio.create_task(worker()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _warmed(
    server: Connection,
    item: WarmItem,
    report: Callable[[WarmItem, int, int | None], None],
    is_wanted: Callable[[WarmItem, bytes], bool],
) -> Warmed:
    def read() -> bytes | None:
        image = item.path.read_bytes()
        return image if is_wanted(item, image) else None

    try:
        image = await asyncio.to_thread(read)
    except OSError as error:
        return Warmed(item, error=f"{item.path}: cannot be read: {error.strerror or error}")
    if image is None:
        return Warmed(item)
    try:
        template = await warm_template(server, image, item.settings, lambda n, of: report(item, n, of))
    except ReplyError as error:
        if error.status in FATAL or error.status >= 500:
            raise
        return Warmed(item, error=f"{item.path}: {error}")
    return Warmed(item, template)
