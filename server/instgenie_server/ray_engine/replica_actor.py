"""A replica process on a machine of the cluster, in the hands of a server on another one."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray

import instgenie
from instgenie_cache.wire.address import Address
from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.kept_process import spawn
from instgenie_server.ray_engine.node_memory import bytes_for_records
from instgenie_server.replica_process.replica_command import Place, ReplicaCommand
from instgenie_server.replica_process.runtime_folder import runtime_folder
from instgenie_server.settings import CacheSettings, EngineSettings

CHUNK_BYTES = 64 << 10
MAX_CHUNKS = 64  # unread ones, beyond which the process waits


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLaunch:
    """What is run, on whichever machine.

    Attributes:
        place: of each of them, but for its name.
        secret: that the server will prove. It is called by the name that a replica has for it by default.
        most_on_machine: replicas that may come to share the machine's memory.
    """

    engine: EngineSettings
    cache: CacheSettings
    place: Place
    secret: bytes = field(repr=False)
    most_on_machine: int
    log_level: str


@dataclass(frozen=True, slots=True)
class Where:
    """The machine that an actor is on."""

    node_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Something that the process wrote."""

    is_error: bool
    data: bytes


class ReplicaActor:
    """Runs one replica process, which ends when the actor does, whichever way.

    A server calls `where`, then `start`, and then `read` again and again until that returns an exit code.
    """

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._process: asyncio.subprocess.Process | None = None
        self._written: asyncio.Queue[Chunk | int] = asyncio.Queue(MAX_CHUNKS)
        self._running: asyncio.Task[None] | None = None
        self._stack = ExitStack()

    async def where(self) -> Where:
        """The machine that it got."""
        return Where(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())

    async def start(self, launch: ReplicaLaunch, cache_address: Address | None) -> int:
        """Start the process, which will listen at a port of its own choice: its number.

        Args:
            cache_address: of this machine's cache service; None keeps records in the process's memory.
        Raises:
            FileNotFoundError: the model is not on this machine.
            OSError: no process can be made.
        """
        command = await asyncio.to_thread(self._command, launch, cache_address)
        self._process = await spawn(command)
        self._running = asyncio.create_task(self._run(self._process))
        return self._process.pid

    async def read(self) -> Chunk | int:
        """What the process writes next, once it does; its exit code at the end."""
        return await self._written.get()

    async def signal(self, number: int) -> None:
        """Send the process a signal. One that has ended is let be."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _run(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on(process.stdout, is_error=False))
            group.create_task(self._pass_on(process.stderr, is_error=True))
        code = await process.wait()
        await asyncio.to_thread(self._stack.close)
        await self._written.put(code)

    async def _pass_on(self, stream: asyncio.StreamReader, *, is_error: bool) -> None:
        while data := await stream.read(CHUNK_BYTES):
            await self._written.put(Chunk(is_error, data))

    def _command(self, launch: ReplicaLaunch, cache_address: Address | None) -> ChildCommand:
        model = launch.engine.model or Path(instgenie.__file__).parent / "builtin"
        host = ray.util.get_node_ip_address()
        if not model.is_dir():
            raise FileNotFoundError(f"model: there is no folder {model} on the machine {host}: each one needs a copy")
        folder = self._stack.enter_context(runtime_folder())
        command = ReplicaCommand(
            folder=folder,
            engine=launch.engine,
            cache=launch.cache,
            cache_address=cache_address,
            place=launch.place,
            host_bytes=bytes_for_records(launch.cache, model, launch.most_on_machine) // launch.most_on_machine,
            log_level=launch.log_level,
        )
        secret_file = folder / "replica-secret"
        secret_file.touch(mode=0o600)
        secret_file.write_bytes(launch.secret)
        child = command.child()
        listen = ("--listen", str(Address(host=host)), "--secret-file", str(secret_file))
        return replace(child, options=listen)
