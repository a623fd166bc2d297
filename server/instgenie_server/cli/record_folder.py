"""The folder where commands that edit in this process keep records."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_server.record_cache.folder import DISK_BYTES_VARIABLE, FOLDER_VARIABLE

if TYPE_CHECKING:
    from instgenie_cache import RecordStore
    from instgenie_cache.wire.messages import ArenaUse

log = logging.getLogger(__name__)

NO_FOLDER = "none"
CLIENT = "instgenie edit"

CacheDirOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep records here, for later edits and other processes; none: in memory, until the command ends.",
        show_default=f"${FOLDER_VARIABLE}, else ~/.cache/instgenie/records",
    ),
]


def record_folder(given: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where records are kept; None is in memory alone.

    Args:
        given: on the command line.
    """
    from instgenie_cache.default_folder import default_folder  # here: it brings numpy, for which --help need not wait

    named = given or environ.get(FOLDER_VARIABLE) or str(default_folder(environ))
    if named.strip().lower() == NO_FOLDER:
        return None
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        log.warning("records are kept in memory alone: the home folder that ~ stands for is not known")
        return None


def record_disk_bytes(folder: Path, environ: Mapping[str, str] = os.environ) -> int:
    """How much of a disk records may take.

    Raises:
        ParameterError: the environment says something else than a number.
    """
    named = environ.get(DISK_BYTES_VARIABLE, "")
    if named.strip().lower() in ("", "none"):
        from instgenie_cache.default_folder import default_disk_bytes

        return default_disk_bytes(folder)
    if not named.strip().isdecimal():
        from instgenie.errors import ParameterError

        raise ParameterError(DISK_BYTES_VARIABLE, f"is {named[:80]!r}, but must be a whole number of bytes, or none")
    return int(named)


def open_records(folder: Path | None, disk_bytes: int, arena: ArenaUse) -> RecordStore:
    """The store of a folder: its service's, where one runs. What is wrong with the folder is logged, and no error."""
    from instgenie.free_memory import available_memory_bytes
    from instgenie_cache.open_store import open_store
    from instgenie_cache.stores.build_store import StoreSettings, build_store

    settings = StoreSettings(host_bytes=available_memory_bytes() // 2, folder=folder, disk_bytes=disk_bytes)
    try:
        return open_store(settings, CLIENT, arena)
    except OSError as error:  # a folder that may not be looked into
        log.warning("records are kept in memory alone: %s", error)
        return build_store(StoreSettings(host_bytes=settings.host_bytes))
