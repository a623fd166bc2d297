"""Members whose processes are the server's own, here or on other machines: started side by side, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from instgenie_server.fleet.member import Member, ReplicaStartError
from instgenie_server.processes.kept_process import ERROR, KeptProcess

RETRY_SECONDS = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class KeptMember:
    """A member and its process."""

    member: Member
    process: KeptProcess

    async def start(self) -> None:
        """Wait until it is connected to.

        Raises:
            ReplicaStartError: it cannot be started.
        """
        if not await self.process.start():
            raise ReplicaStartError(f"replica: {self.process.last_line.removeprefix(ERROR)}")
        await self.member.replica.start()

    async def start_late(self) -> None:
        """Start it though it could not be: the others work meanwhile."""
        while not self.process.is_hopeless:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                return await self.start()
            except ReplicaStartError as error:
                log.warning("a replica could not be started", replica=self.member.id, reason=str(error))
        return None

    async def stop(self) -> None:
        """End it."""
        try:
            await self.member.replica.close()
        finally:
            await self.process.stop()


@asynccontextmanager
async def kept_members(replicas: Sequence[KeptMember]) -> AsyncIterator[Sequence[Member]]:
    """Members, at least one of which is ready; the others are being started. All end with the block.

    Raises:
        ReplicaStartError: none can be started, since the model cannot be loaded, for example.
    """
    starts = [
        asyncio.create_task(replica.start(), name=f"start of replica {replica.member.id}") for replica in replicas
    ]
    late: list[asyncio.Task[None]] = []
    try:
        await _any(starts)
        late = [
            asyncio.create_task(_see_to(replica, start), name=f"late start of replica {replica.member.id}")
            for replica, start in zip(replicas, starts, strict=True)
        ]
        yield [replica.member for replica in replicas]
    finally:
        for task in (*late, *starts):
            task.cancel()
        await asyncio.gather(*late, *starts, return_exceptions=True)
        # All of them, whatever one of them fails with.
        ends = await asyncio.gather(*(replica.stop() for replica in replicas), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end


async def _any(starts: Sequence[asyncio.Task[None]]) -> None:
    """Wait until one is ready.

    Raises:
        ReplicaStartError: none will be.
    """
    reasons = []
    for start in asyncio.as_completed(starts):
        try:
            return await start
        except ReplicaStartError as error:
            reasons.append(str(error))
    raise ReplicaStartError("; ".join(dict.fromkeys(reasons)))


async def _see_to(replica: KeptMember, start: asyncio.Task[None]) -> None:
    """Have a replica come later that could not be started beside the others."""
    try:
        await start
    except ReplicaStartError as error:
        log.error(
            "the others work without a replica that cannot be started", replica=replica.member.id, reason=str(error)
        )
        await replica.start_late()
