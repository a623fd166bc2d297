"""A store and files in a temporary folder, and a guard: no test passes in which the package blocks the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from blockbuster import blockbuster_ctx

from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.picture_files import PictureFiles


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("instgenie_server.jobs"):
        yield


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = await JobStore.open(tmp_path / "jobs.sqlite3")
    yield store
    await store.close()


@pytest_asyncio.fixture
async def files(tmp_path: Path) -> AsyncIterator[PictureFiles]:
    files = PictureFiles(tmp_path / "files")
    await files.open()
    yield files
    await files.close()
