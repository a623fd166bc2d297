"""Containers as local processes: started, looked after and ended as their service says."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from compose.compose_file import Service
from compose.image import Image
from compose.interpolation import ComposeError
from compose.places import Places

RESTART_SECONDS = 0.1  # at first; twice as long each time, as engines do
LOOK_SECONDS = 0.5
STOP_SECONDS = 45.0
LOG_LINES = 40


class Container:
    """One container of a service: its process, which is started again when it ends."""

    def __init__(self, name: str, service: Service, places: Places, entrypoint: Sequence[str], folder: Path) -> None:
        """Args:
        folder: of its own, for what it prints and its temporary files.
        """
        self.name, self.service, self.starts = name, service, 0
        self.log = folder / "log"
        self._places, self._entrypoint, self._folder = places, tuple(entrypoint), folder
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        folder.mkdir(parents=True)

    def start(self) -> None:
        """Begin to keep it running."""
        self._keeper = asyncio.create_task(self._keep())

    async def run(self, arguments: Sequence[str]) -> tuple[int, bytes]:
        """One command in it, to its end: exit code and standard output."""
        process = await self._started((*self._entrypoint, *arguments), stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        assert process.returncode is not None, "it has ended"
        return process.returncode, output

    def kill(self) -> None:
        """End its process as a crash does."""
        assert self._process is not None, "it was started"
        os.killpg(self._process.pid, signal.SIGKILL)

    async def is_healthy(self) -> bool:
        """What its health check says."""
        check = self.service.healthcheck
        if check is None or self._process is None or self._process.returncode is not None:
            return False
        process = await self._started(check.command, stdout=asyncio.subprocess.DEVNULL, quiet=True)
        try:
            async with asyncio.timeout(check.timeout_seconds):
                return await process.wait() == 0
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            return False

    async def wait_healthy(self) -> None:
        """Raises:
        ComposeError: it is not in time.
        """
        check = self.service.healthcheck
        assert check is not None, f"{self.name} has a health check"
        assert self._keeper is not None, "it was started"
        until = time.monotonic() + check.start_seconds
        while not await self.is_healthy():
            if self._keeper.done():
                self._keeper.result()  # it goes on until it is cancelled, or fails
            if time.monotonic() > until:
                raise ComposeError(f"{self.name} is not healthy; it printed\n{self.tail()}")
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """Have it end, by SIGTERM first."""
        if self._keeper is None:
            return
        self._keeper.cancel()
        process = self._process
        if process is not None and process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(min(STOP_SECONDS, self.service.stop_seconds)):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def tail(self) -> str:
        """The last lines that it printed."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"{self.name} | {line}" for line in lines[-LOG_LINES:])

    async def _keep(self) -> None:
        pause_seconds = RESTART_SECONDS
        while True:
            for path in self.service.tmpfs:
                shutil.rmtree(self._folder / path.strip("/"), ignore_errors=True)
                (self._folder / path.strip("/")).mkdir(parents=True)
            self._process = await self._started((*self._entrypoint, *self.service.command))
            self.starts += 1
            await self._process.wait()
            await asyncio.sleep(pause_seconds)
            pause_seconds *= 2

    async def _started(
        self, words: Sequence[str], stdout: int | None = None, quiet: bool = False
    ) -> asyncio.subprocess.Process:
        """A process with the container's environment, in a session of its own."""
        here = self._places.here
        environment = {name: here(value) for name, value in self.service.environment.items()}
        home = self._folder / "home"  # a container's is read-only: see `untidy`
        home.mkdir(exist_ok=True)
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", "--"),  # should this process be killed
                *map(here, words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=asyncio.subprocess.DEVNULL if quiet else log,
                env={"PATH": path, "HOME": str(home), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
                | environment,
                cwd=home,
                start_new_session=True,
            )

    def untidy(self) -> list[str]:
        """What it wrote outside its volumes."""
        return [str(path) for path in (self._folder / "home").rglob("*")]


class Stand:
    """All containers of some services, in a folder of their own.

    To be used as `async with Stand(...)`: at the end all processes are ended.
    """

    def __init__(
        self, services: Mapping[str, Service], image: Image, work: Path, names: Mapping[str, str], ports: dict[int, int]
    ) -> None:
        """Args:
        work: for volumes, temporary files and logs. Its path is short: sockets are below it.
        names, ports: see `Places`.
        """
        self._services, self._image, self._work, self._names, self._ports = services, image, work, names, ports
        self.containers: dict[str, list[Container]] = {}
        self._single: list[Container] = []

    async def __aenter__(self) -> Stand:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in reversed(self.containers):
            await asyncio.gather(*(container.stop() for container in self.containers[name]))

    async def up(self, say: Callable[[str], None]) -> None:
        """Start all services that are restarted, each when what it depends on is as it wants it."""
        for service in self._services.values():
            if not service.restarts:
                continue
            for other, condition in service.depends_on.items():
                if condition == "service_healthy":
                    await self.wait_healthy(other)
            group = [self._container(service, f"{service.name}-{n}") for n in range(1, service.replicas + 1)]
            self.containers[service.name] = group
            for container in group:
                container.start()
            say(f"started {', '.join(container.name for container in group)}")
        await asyncio.gather(*map(self.wait_healthy, self.containers))

    async def wait_healthy(self, name: str) -> None:
        """Wait until all containers of a service are."""
        await asyncio.gather(*(container.wait_healthy() for container in self.containers[name]))

    async def run(
        self, name: str, arguments: Sequence[str] = (), environment: Mapping[str, str] = MappingProxyType({})
    ) -> bytes:
        """One command in another container of a service, by default the service's own: what it prints.

        Args:
            environment: besides the service's.
        Raises:
            ComposeError: it fails.
        """
        service = self._services[name]
        service = replace(service, environment={**service.environment, **environment})
        container = self._container(service, f"{name}-run-{len(self._single)}")
        self._single.append(container)
        code, output = await container.run(arguments or service.command)
        if code:
            raise ComposeError(f"{container.name} ended with {code}; it printed\n{container.tail()}")
        return output

    def untidy(self) -> list[str]:
        """What containers wrote outside their volumes."""
        everything = [*self._single, *(container for group in self.containers.values() for container in group)]
        return [path for container in everything for path in container.untidy()]

    def _container(self, service: Service, name: str) -> Container:
        folder = self._work / name
        paths = {path: folder / path.strip("/") for path in service.tmpfs}
        paths |= {f"/run/secrets/{secret}": file for secret, file in service.secrets.items()}
        paths |= self._image.files
        for target, source in service.volumes.items():
            paths[target] = source if isinstance(source, Path) else self._work / source
            if not isinstance(source, Path):
                paths[target].mkdir(mode=0o700, exist_ok=True)
        entrypoint = self._image.entrypoint if service.entrypoint is None else service.entrypoint
        return Container(name, service, Places(paths, self._names, self._ports), entrypoint, folder)


async def until(what: str, check: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Look again and again until it is so.

    Raises:
        ComposeError: it is not in time.
    """
    end = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > end:
            raise ComposeError(f"not after {seconds:g} s: {what}")
        await asyncio.sleep(LOOK_SECONDS)
