"""A replica that is kept running wherever the cluster has room for it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from ray.exceptions import RayError

from instgenie.replica.remote_replica import RemoteReplica
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_server.fleet.member import Member
from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.kept_process import KeptProcess
from instgenie_server.ray_engine.cluster import end_actor, reason_of, start_actor
from instgenie_server.ray_engine.node_caches import NodeCaches
from instgenie_server.ray_engine.placement import Placement
from instgenie_server.ray_engine.remote_process import RemoteProcess
from instgenie_server.ray_engine.replica_actor import ReplicaActor, ReplicaLaunch
from instgenie_server.replica_process.replica_command import READY_SECONDS, START_ATTEMPTS, STOP_SECONDS
from instgenie_server.replica_process.supervised_replica import SupervisedReplica

_WRONG_SETTINGS = 2
ROOM_SECONDS = 10.0  # without room in the cluster, until that is told
SECRET_NAME = "replica"  # by which a replica calls its secret where it is not told otherwise
CLIENT = "instgenie serve"

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RayReplica:
    """One replica's place in the cluster.

    Attributes:
        member: for the fleet.
        process: again and again another one.
    """

    def __init__(self, name: str, launch: ReplicaLaunch, placement: Placement, caches: NodeCaches) -> None:
        """Nothing is started yet.

        Args:
            name: of the member, and in log lines.
        """
        self._launch, self._placement, self._caches = launch, placement, caches
        self._node_id: str | None = None
        self._home: str | None = None  # the node of the last one that was ready
        self._labels = {"replica": name}
        command = ChildCommand(
            name="replica",
            labels=self._labels,
            module="instgenie.replica",
            logger="instgenie.replica",
            settings={},  # those of its machine, which its actor knows
            ready_seconds=READY_SECONDS,
            stop_seconds=STOP_SECONDS,
            attempts=START_ATTEMPTS,
            final_codes=frozenset({_WRONG_SETTINGS}),
        )
        self.process = KeptProcess(command, launch=self._started)
        replica = SupervisedReplica(self.process, self._connect, name=name)
        self.member = Member(name, machine="", replica=replica, renew=self.process.renew)

    async def _connect(self) -> RemoteReplica:
        """A connection to the process that is ready.

        Raises:
            ReplicaError: it cannot be reached.
        """
        life = await self.process.ready()
        self._home = self._node_id
        secret = SharedSecret(SECRET_NAME, self._launch.secret)
        return await RemoteReplica.connect(life.address, client=CLIENT, secret=secret)

    async def _started(self, _command: ChildCommand) -> RemoteProcess:
        """A process, once there is room for it: on the machine of the one before, where there still is that.

        Raises:
            OSError: it could not be started there.
        """
        actor, where = await self._placed()
        try:
            self._node_id = self.member.machine = where.node_id
            log.info("the replica has its place", host=where.host, machine=where.node_id[:8], **self._labels)
            cache_address = await self._caches.on(where.node_id)
            if cache_address is None:  # records in a process's own memory are no tier that replicas share
                self.member.machine += f" {self.member.id}"
            return RemoteProcess(actor, await actor.start.remote(self._launch, cache_address))
        except BaseException as error:
            await end_actor(actor)
            if isinstance(error, RayError):
                raise OSError(reason_of(error)) from error
            raise

    async def _placed(self) -> tuple[Any, Any]:
        """An actor and where it is, once there is room: on the machine of the one before if there is soon.

        Raises:
            OSError: the actor went before it could tell.
        """
        placement = self._placement
        for node_id in dict.fromkeys((self._home, None)):
            try:
                actor = await start_actor(
                    ReplicaActor, cpus=placement.cpus, gpus=placement.gpus, node_id=node_id, may_move=True
                )
            except (RayError, ConnectionError) as error:
                raise OSError(str(error)) from error
            try:
                where = await self._where(actor, is_patient=node_id is None)
            except BaseException as error:
                await end_actor(actor)
                if isinstance(error, RayError):
                    raise OSError(reason_of(error)) from error
                raise
            if where is not None:
                return actor, where
            await end_actor(actor)
        raise AssertionError("the last one waits")

    async def _where(self, actor: Any, *, is_patient: bool) -> Any:
        """Where an actor is, however long that takes; None where it is not to be waited for and there is no room."""
        placed = asyncio.ensure_future(_answer(actor.where.remote()))
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                return await asyncio.shield(placed)
        except TimeoutError:
            if not is_patient:
                return None
            cpus, gpus = self._placement.cpus, self._placement.gpus
            log.warning("the cluster has no room for the replica: it waits", cpus=cpus, gpus=gpus, **self._labels)
            return await placed
        finally:
            placed.cancel()


async def _answer(reference: Any) -> Any:
    return await reference
