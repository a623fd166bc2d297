"""What `instgenie doctor` finds out about the folder of records."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instgenie_server.cli.record_folder import record_disk_bytes, record_folder

if TYPE_CHECKING:
    from instgenie_cache.tiers.verify import VerifyReport

CLIENT = "instgenie doctor"
DEADLINE_SECONDS = 2.0


def check_cache() -> dict[str, Any]:
    """Where records are kept, how many bytes they may take and do take, and whether a cache service answers there."""
    folder = record_folder(None)
    if folder is None:
        return {"folder": None}
    from instgenie_cache.tiers.disk_env import DATA_NAME

    data = folder / DATA_NAME
    try:
        stored_bytes = data.stat().st_size if data.exists() else 0
    except OSError as error:
        return {"folder": str(folder), "error": error.strerror}
    return {
        "folder": str(folder),
        "budget_bytes": record_disk_bytes(folder),
        "stored_bytes": stored_bytes,
        "service": asyncio.run(_answers(folder)),
    }


def verify_cache(folder: Path, repair: bool) -> dict[str, Any]:
    """Read every record in a folder; `ok` is False where something is broken and was not dropped.

    Where it was, `after_repair` is the same of what is left.

    Raises:
        ParameterError: there is no cache, or it cannot be opened.
    """
    from instgenie.errors import ParameterError
    from instgenie_cache.errors import CacheError
    from instgenie_cache.tiers.verify import verify_folder

    try:
        report = verify_folder(folder.expanduser(), repair)
    except (CacheError, OSError) as error:
        raise ParameterError("cache", str(error)) from error
    return _fields(report)


def _fields(report: VerifyReport) -> dict[str, Any]:
    return asdict(report) | {
        "folder": str(report.folder),
        "free_share": round(report.free_share, 4),
        "ok": report.ok,
        "is_repaired": report.is_repaired,
        "after_repair": None if report.after_repair is None else _fields(report.after_repair),
    }


async def _answers(folder: Path) -> bool:
    from instgenie_cache.client.cache_client import CacheClient
    from instgenie_cache.errors import CacheError
    from instgenie_cache.open_store import socket_of
    from instgenie_cache.wire.address import Address

    address = Address(path=str(socket_of(folder)))
    try:
        client = await CacheClient.connect(address, client=CLIENT, timeout_seconds=DEADLINE_SECONDS)
    except CacheError:
        return False
    await client.close()
    return True
