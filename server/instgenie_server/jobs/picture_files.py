"""Picture files for the event loop: the calls of `PictureFolder` in a few threads, and who may delete what.

A sweep deletes files that no job refers to. Two rules keep it from deleting one that a job is about to refer to:
what was written stays while its `Hold` is open, and only what was condemned *before* the sweep looked for references is
deleted, unless it was written again since.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from instgenie_server.jobs.errors import CorruptFileError
from instgenie_server.jobs.picture_folder import PictureFolder, StoredFile, picture_digest

_THREADS = 4

T = TypeVar("T")


class PictureFiles:
    """Content-addressed files; see `PictureFolder` for names and durability. Belongs to one event loop."""

    def __init__(self, root: Path) -> None:
        self._folder = PictureFolder(root)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: Counter[str] = Counter()
        self._condemned: set[Condemned] = set()

    async def open(self) -> None:
        """Make the folders; throw away what a crash left half written."""
        await self._in_thread(self._folder.prepare)

    async def close(self) -> None:
        """Let the threads end."""
        await asyncio.to_thread(self._threads.shutdown)

    @contextlib.contextmanager
    def hold(self) -> Iterator[Hold]:
        """What is written through the hold is not deleted before its end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self._held -= hold.digests  # Counter drops what has come down to 0

    async def read(self, digest: str) -> bytes:
        """The bytes.

        Raises:
            MissingFileError: there is no such file.
            CorruptFileError: its bytes have changed; the file was dropped.
        """
        try:
            return await self._in_thread(self._folder.read, digest)
        except CorruptFileError:
            async with self._turn(digest):
                await self._in_thread(self._folder.drop_corrupt, digest)
            raise

    async def sound_file(self, digest: str) -> Path:
        """The path of a file whose bytes are those that were written.

        Raises:
            MissingFileError, CorruptFileError: as of `read`.
        """
        await self.read(digest)
        return self._folder.path(digest)

    async def list(self) -> dict[str, StoredFile]:
        """All files by digest."""
        return await self._in_thread(self._folder.list)

    async def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in (await self.list()).values())

    @contextlib.contextmanager
    def condemn(self, digests: Iterable[str]) -> Iterator[Condemned]:
        """Announce that they may be deleted within the block; to be done before it is asked who refers to them."""
        condemned = Condemned(self, set(digests) - self._held.keys())
        self._condemned.add(condemned)
        try:
            yield condemned
        finally:
            self._condemned.remove(condemned)

    async def _delete(self, digests: Iterable[str], condemned: Condemned) -> int:
        count = 0
        for digest in digests:
            async with self._turn(digest):
                if digest in condemned.digests:
                    count += await self._in_thread(self._folder.delete, digest)
        return count

    async def _write(self, data: bytes, hold: Hold) -> str:
        digest = await self._in_thread(picture_digest, data)
        hold.digests[digest] += 1
        self._held[digest] += 1
        for condemned in self._condemned:
            condemned.digests.discard(digest)
        async with self._turn(digest):
            await self._in_thread(self._folder.write, digest, data)
        return digest

    def _turn(self, digest: str) -> asyncio.Lock:
        """Changes of one file come one after the other."""
        return self._turns.setdefault(digest, asyncio.Lock())

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})  # a thread cannot be stopped, and it must not go on after its turn
            raise


class Hold:
    """Files that a sweep leaves alone for a while."""

    def __init__(self, files: PictureFiles) -> None:
        self._files = files
        self.digests: Counter[str] = Counter()

    async def write(self, data: bytes) -> str:
        """Keep the bytes durably; their digest."""
        return await self._files._write(data, self)


class Condemned:
    """Files that may be deleted, those excepted that were held, or are written again."""

    def __init__(self, files: PictureFiles, digests: set[str]) -> None:
        self._files = files
        self.digests = digests

    async def delete(self, digests: Iterable[str]) -> int:
        """Delete those that are among them; how many went."""
        return await self._files._delete(digests, self)
