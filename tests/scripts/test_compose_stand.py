from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compose.compose_file import read_compose
from compose.image import Image
from compose.interpolation import ComposeError
from compose.stand import Stand, until

SERVICE = """
services:
  first:
    image: i
    command: [sh, -c, "echo begun >> /data/log; touch /tmp/here; exec tail -f /dev/null"]
    volumes: ["data:/data"]
    tmpfs: [/tmp]
    restart: always
    healthcheck: {test: [CMD, test, -e, /tmp/here], timeout: 5s, start_period: 30s}
  second:
    image: i
    command: [sh, -c, "cp /data/log /data/seen; exec tail -f /dev/null"]
    volumes: ["data:/data"]
    restart: always
    healthcheck: {test: [CMD-SHELL, 'grep -q "$$WORD" /data/seen'], timeout: 5s, start_period: 30s}
    environment: {WORD: begun}
    depends_on: {first: {condition: service_healthy}}
  ends:
    image: i
    command: [sh, -c, 'echo "$$WORD of /data"; touch file; exit 3']
    volumes: ["data:/data"]
volumes: {data: {}}
"""


def quiet(_: str) -> None:
    pass


@asynccontextmanager
async def stand(folder: Path, text: str = SERVICE) -> AsyncIterator[Stand]:
    file = folder / "compose.yaml"
    file.write_text(textwrap.dedent(text))
    work = folder / "work"
    work.mkdir()
    async with Stand(read_compose(file, {}, []), Image({}, ()), work, {}, {}) as opened:
        yield opened


async def test_services_start_when_what_they_wait_for_is_healthy(tmp_path: Path) -> None:
    async with stand(tmp_path) as opened:
        await opened.up(quiet)
        assert list(opened.containers) == ["first", "second"]  # what is not restarted is not kept
        assert (tmp_path / "work/data/seen").read_text() == "begun\n"
        assert opened.untidy() == []


async def test_what_is_killed_starts_again_with_empty_temporary_files(tmp_path: Path) -> None:
    async with stand(tmp_path) as opened:
        await opened.up(quiet)
        (container,) = opened.containers["first"]
        left = tmp_path / "work/first-1/tmp/left"
        left.touch()
        container.kill()

        async def is_again() -> bool:
            return container.starts == 2

        await until("it is started again", is_again, 20)
        await opened.wait_healthy("first")
        assert not left.exists()
        assert (tmp_path / "work/data/log").read_text() == "begun\nbegun\n"


async def test_no_process_is_left_at_the_end(tmp_path: Path) -> None:
    async with stand(tmp_path) as opened:
        await opened.up(quiet)
        assert processes(tmp_path)
    assert not processes(tmp_path)


async def test_a_command_of_its_own(tmp_path: Path) -> None:
    async with stand(tmp_path) as opened:
        with pytest.raises(ComposeError, match="ended with 3"):
            await opened.run("ends", environment={"WORD": "a word"})
        assert await opened.run("ends", ["echo", "/data/x"]) == f"{tmp_path}/work/data/x\n".encode()
        assert [Path(path).name for path in opened.untidy()] == ["file"]


async def test_a_service_that_does_not_become_healthy_is_an_error(tmp_path: Path) -> None:
    text = """
    services:
      never:
        image: i
        command: [sh, -c, "echo why; exec tail -f /dev/null"]
        restart: always
        healthcheck: {test: [CMD, "false"], timeout: 5s, start_period: 5s}
    """
    async with stand(tmp_path, text) as opened:
        with pytest.raises(ComposeError, match=r"(?s)never-1 is not healthy.*why"):
            await opened.up(quiet)


async def test_a_command_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    text = SERVICE.replace('[sh, -c, "echo begun', '[/no/such/program, "echo begun').replace("30s", "5s")
    async with stand(tmp_path, text) as opened:
        with pytest.raises(ComposeError, match="no/such/program"):
            await opened.up(quiet)


async def test_a_cancelled_command_is_ended(tmp_path: Path) -> None:
    async with stand(tmp_path) as opened:
        running = asyncio.create_task(opened.run("ends", [sys.executable, "-c", "import time; time.sleep(1000)"]))

        async def runs() -> bool:
            return bool(processes(tmp_path))

        await until("it runs", runs, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not processes(tmp_path)


def processes(folder: Path) -> list[str]:
    """Of this machine, in the folder: containers are started in one of their own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue  # ended, or another user's
    return found
