"""Runs docker/compose.yaml without a container engine: its commands with their environment, volumes as folders.

What a container isolates is replaced in texts: paths of volumes, the names and ports of services. Networks, limits of
resources, users and the read-only root are an engine's to enforce; that nothing is written outside the volumes is
checked. Images of others, Prometheus and Grafana, are not run.

Makes an edit, records another template by the service for that, kills each service in turn while an edit runs, waits
until it is healthy again and the edit done, and makes the first edit again, whose records then come from the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from compose.compose_file import read_compose
from compose.image import read_image
from compose.interpolation import ComposeError, read_env_file
from compose.metric_names import families, metrics_named_in
from compose.stand import Stand, until
from instgenie_server.client import Connection, RemoteError, list_templates
from instgenie_server.client.edits import RemoteEdit, run_edit

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SAMPLES = ROOT / "instgenie/builtin/samples"
OBSERVED = ("prometheus/alerts.yml", "grafana/dashboards/instgenie.json")
PROFILES = ("cpu", "prewarm")
PORT = 8731
EDITED_STEPS = 50  # of an edit that lasts until something is killed
RECONNECTED_SECONDS = 60.0  # from a cache that is back until its replicas use it again
# Two replicas. Little memory for records: half of it, which is what a cache service fills when it starts, does not
# hold a template, so that some of its steps are on the disk alone.
SITE = {
    "INSTGENIE_REPLICAS": "2",
    "INSTGENIE_SOCKETS": "unix:/run/instgenie/replicas/1.sock,unix:/run/instgenie/replicas/2.sock",
    "INSTGENIE_REPLICA_CPUS": "1",
    "INSTGENIE_CACHE_HOST": "200MB",
    "INSTGENIE_CACHE_DISK": "1GB",
}


class Check:
    """One run against services in a folder."""

    def __init__(self, stand: Stand, url: str, templates: Path) -> None:
        """Args:
        templates: the folder that is recorded from.
        """
        self._stand, self._url, self._templates = stand, url, templates
        self._key, self._began = "", time.monotonic()

    async def run(self) -> None:
        """Raises:
        ComposeError: something is not as it should be.
        RemoteError: an edit fails.
        """
        self._key = (await self._stand.run("server", ["keys", "add", "check"])).decode().strip()
        await self._stand.up(self._say)
        self._say("all are healthy")
        first = await self._edit(seed=1)
        self._expect("the first edit records its template", first.timings.cache, ["cold"])
        await until("records are on the disk", self._records_are_on_disk, 60)
        await self._prewarm()
        for name in self._stand.containers:
            begun = asyncio.Event()
            edit = asyncio.create_task(self._edit(seed=2, steps=EDITED_STEPS, begun=begun))
            waited = asyncio.create_task(begun.wait())
            await asyncio.wait({edit, waited}, return_when=asyncio.FIRST_COMPLETED)
            waited.cancel()
            if edit.done():
                raise ComposeError(f"an edit was done before {name} could be killed: {edit.result().timings}")
            await self._kill(name)
            await edit
            self._say("the edit is done")
        await until("all replicas are back", self._replicas_are_up, 90)
        await self._kill("cache")  # so that its memory holds what it reads at its start, and no more
        again_until = time.monotonic() + RECONNECTED_SECONDS
        second = await self._edit(seed=1)
        while second.timings.cache == "refused" and time.monotonic() < again_until:
            second = await self._edit(seed=1)
        self._expect("the edit again finds its records", second.timings.cache, ["hit"])
        self._expect("they come from the disk", second.timings.tier, ["disk"])
        await self._check_metrics()
        if untidy := self._stand.untidy():
            raise ComposeError(f"written outside the volumes: {', '.join(untidy)}")

    async def _prewarm(self) -> None:
        with Image.open(SAMPLES / "table_template.png") as picture:  # as much as one window
            picture.convert("RGB").crop((0, 0, 192, 192)).save(self._templates / "corner.png")
        await self._stand.run("prewarm", environment={"INSTGENIE_API_KEY": self._key})
        async with Connection(self._url, self._key) as server:
            self._expect("prewarm records a template", [t["status"] for t in await list_templates(server)], [["warm"]])

    async def _kill(self, name: str) -> None:
        """Kill one of a service's containers, and wait until it is back."""
        container = self._stand.containers[name][0]
        starts = container.starts
        container.kill()
        self._say(f"killed {container.name}")

        async def is_started() -> bool:
            return container.starts > starts

        await until(f"{container.name} is started again", is_started, 10)
        await self._stand.wait_healthy(name)
        self._say(f"{container.name} is healthy again")

    async def _edit(self, seed: int, steps: int | None = None, begun: asyncio.Event | None = None) -> RemoteEdit:
        """Args:
        begun: set at its first step.
        """

        def say(what: str) -> None:
            if begun is not None and what.startswith("step"):
                begun.set()

        values = {"prompt": "a watermelon", "seed": str(seed)} | ({} if steps is None else {"steps": str(steps)})
        picture, mask = ((SAMPLES / f"table_{name}.png").read_bytes() for name in ("template", "mask"))
        async with Connection(self._url, self._key) as server:
            return await run_edit(server, picture, mask, values, say)

    async def _metrics(self) -> str:
        async with Connection(self._url, self._key) as server:
            return (await server.bytes("GET", "/metrics")).decode()

    async def _records_are_on_disk(self) -> bool:
        values = families(await self._metrics())
        return values["instgenie_cache_disk_used_bytes"] >= values["instgenie_cache_used_bytes"] > 0

    async def _replicas_are_up(self) -> bool:
        return families(await self._metrics())["instgenie_replica_up"] == len(self._stand.containers["replica"])

    async def _check_metrics(self) -> None:
        there = families(await self._metrics())
        for name in OBSERVED:
            if missing := metrics_named_in((DOCKER / name).read_text()) - there.keys():
                raise ComposeError(f"{name} names metrics that the server has not: {', '.join(sorted(missing))}")
        self._say("alerts and dashboard name metrics that are there")

    def _expect(self, what: str, found: object, expected: Sequence[object]) -> None:
        if found not in expected:
            raise ComposeError(f"expected that {what}: {found} instead of {' or '.join(map(str, expected))}")
        self._say(f"{what}: {found}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)


async def check(work: Path) -> None:
    """Run everything in a folder."""
    templates = work / "templates"
    templates.mkdir()
    variables = read_env_file((DOCKER / ".env").read_text()) | SITE | {"INSTGENIE_TEMPLATES": str(templates)}
    services = read_compose(DOCKER / "compose.yaml", variables, PROFILES)
    port = _free_port()
    names = {"0.0.0.0": "127.0.0.1", "server": "127.0.0.1"}
    async with Stand(services, read_image(DOCKER / "Dockerfile", ROOT), work, names, {PORT: port}) as stand:
        await Check(stand, f"http://127.0.0.1:{port}", templates).run()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def _until_told(work: Path) -> None:
    """`check`, which SIGTERM and Ctrl-C end in order."""
    task = asyncio.create_task(check(work))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/compose_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder with volumes and logs")
    options = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="ic-", dir="/tmp"))  # short: paths of sockets have 107 bytes at most
    try:
        asyncio.run(_until_told(work))
    except (ComposeError, RemoteError) as error:
        print(f"compose_check: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 130
    finally:
        if options.keep:
            print(f"volumes and logs: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    print("compose_check: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
