"""Who may delete what: nothing that was just written, nothing that is held."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from instgenie_server.jobs.errors import CorruptFileError, MissingFileError
from instgenie_server.jobs.picture_files import PictureFiles
from instgenie_server.jobs.picture_folder import picture_digest


async def write(files: PictureFiles, data: bytes) -> str:
    with files.hold() as hold:
        return await hold.write(data)


async def sweep(files: PictureFiles, *digests: str) -> int:
    with files.condemn(digests) as condemned:
        return await condemned.delete(digests)


async def test_write_read_list(files: PictureFiles) -> None:
    digests = [await write(files, data) for data in (b"one", b"three", b"one")]
    assert digests == [picture_digest(data) for data in (b"one", b"three", b"one")]
    assert [await files.read(digest) for digest in digests] == [b"one", b"three", b"one"]
    assert set(await files.list()) == set(digests)
    assert await files.total_bytes() == 8


async def test_many_writers_of_the_same_and_of_others(files: PictureFiles) -> None:
    contents = [bytes([number % 5]) * 1000 for number in range(40)]
    digests = await asyncio.gather(*(write(files, data) for data in contents))
    assert await asyncio.gather(*map(files.read, digests)) == contents
    assert len(await files.list()) == 5


async def test_rotten_file_is_dropped(files: PictureFiles, tmp_path: Path) -> None:
    digest = await write(files, b"a picture")
    await asyncio.to_thread((tmp_path / "files" / digest[:2] / digest[2:]).write_bytes, b"rotten")
    with pytest.raises(CorruptFileError):
        await files.read(digest)
    with pytest.raises(MissingFileError):
        await files.read(digest)


async def test_condemned_files_go(files: PictureFiles) -> None:
    kept, gone = await write(files, b"kept"), await write(files, b"gone")
    with files.condemn([gone]) as condemned:
        assert await condemned.delete([kept, gone]) == 1
    assert set(await files.list()) == {kept}
    assert await sweep(files, gone) == 0


async def test_held_files_stay(files: PictureFiles) -> None:
    with files.hold() as first, files.hold() as second:
        digest = await first.write(b"a picture")
        await first.write(b"a picture")
        assert await second.write(b"a picture") == digest
        assert await sweep(files, digest) == 0
    assert await sweep(files, digest) == 1
    with files.hold() as first:
        await first.write(b"a picture")
        with files.hold() as second:
            await second.write(b"a picture")
        assert await sweep(files, digest) == 0  # the other one still holds it


async def test_condemned_file_that_is_written_again_stays(files: PictureFiles) -> None:
    digest = await write(files, b"a picture")
    with files.condemn([digest]) as condemned:
        await write(files, b"a picture")
        assert await condemned.delete([digest]) == 0
    assert await files.read(digest) == b"a picture"


async def test_file_that_was_written_again_stays_though_others_condemn_it_since(files: PictureFiles) -> None:
    """Who refers to it was asked before: a job may since."""
    digest = await write(files, b"a picture")
    with files.condemn([digest]) as first:
        await write(files, b"a picture")
        with files.condemn([digest]) as second:
            assert await first.delete([digest]) == 0
            assert await second.delete([digest]) == 1


async def test_writing_and_sweeping_at_the_same_time(files: PictureFiles) -> None:
    """Whenever a write returns, the file is there as long as the hold is open."""

    async def write_and_read() -> None:
        for _ in range(30):
            with files.hold() as hold:
                digest = await hold.write(b"a picture")
                assert await files.read(digest) == b"a picture"

    async def sweep_again_and_again() -> None:
        while True:
            await sweep(files, picture_digest(b"a picture"))
            await asyncio.sleep(0)  # the others' turn, where there is nothing to delete

    sweeping = asyncio.create_task(sweep_again_and_again())
    await asyncio.gather(write_and_read(), write_and_read())
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping


async def test_cancelled_write_holds_nothing_afterwards(files: PictureFiles) -> None:
    for turns in range(6):
        task = asyncio.create_task(write(files, b"a picture"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await sweep(files, picture_digest(b"a picture"))
        assert await files.list() == {}
