"""A child of the server, as a real process: started again when it ends, ended when the server does."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.kept_process import KeptProcess, RenewError
from instgenie_server.processes.restarts import Restarts

PROGRAM = """
import os, signal, sys
mode = os.environ["MODE"]
if mode == "once":
    try:
        open(os.environ["MARK"], "x").close()
    except FileExistsError:
        sys.exit("error: no memory")
if mode == "refuses":
    sys.exit("error: no model there")
if mode == "wrong usage":
    print("error: no such option", file=sys.stderr)
    sys.exit(2)
if mode == "goes on":
    for line in ("error: no disk", "but there is memory", "error: no memory either"):
        print(line, file=sys.stderr)
    sys.exit(2)
if mode == "loads":  # and hears nothing meanwhile
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("loading", file=sys.stderr, flush=True)
    mode = "silent"
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode != "silent":
    print("serving at unix:/somewhere", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_child.py").write_text(PROGRAM)
    return tmp_path


def command_of(folder: Path, mode: str = "", *, ready_seconds: float = 60, stop_seconds: float = 60) -> ChildCommand:
    return ChildCommand(
        name="child",
        module="a_child",
        logger="a_child",
        settings={"PYTHONPATH": str(folder), "MODE": mode, "MARK": str(folder / "mark")},
        ready_seconds=ready_seconds,
        stop_seconds=stop_seconds,
        attempts=3,
        final_codes=frozenset({2}),
    )


def kept(command: ChildCommand) -> KeptProcess:
    return KeptProcess(command, Restarts(lambda: 0.0, first_seconds=0.001))


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_lives_from_start_to_stop(folder: Path) -> None:
    async with kept(command_of(folder)) as process:
        assert await process.start()
        life = await process.ready()
        assert life.process_id == process.process_id
        assert is_alive(life.process_id or 0)
        assert not life.ended.is_set()
    assert life.ended.is_set()
    assert life.reason == "it was told to end"
    assert not is_alive(life.process_id or 0)
    assert process.process_id is None


async def test_another_one_takes_the_place_of_one_that_dies(folder: Path) -> None:
    async with kept(command_of(folder)) as process:
        assert await process.start()
        first = await process.ready()
        with capture_logs() as logged:
            os.kill(first.process_id or 0, signal.SIGKILL)
            await first.ended.wait()
            second = await process.ready()
        assert second.process_id not in (None, first.process_id)
        assert first.reason == "its process ended by signal 9"
        assert not second.ended.is_set()
    assert [(line["event"], line.get("code")) for line in logged] == [
        ("the child ended", -9),
        ("the child is ready", None),
    ]


async def test_another_one_takes_the_place_of_one_that_is_renewed(folder: Path) -> None:
    async with kept(command_of(folder)) as process:
        assert await process.start()
        first = await process.ready()
        with capture_logs() as logged:
            await process.renew()
        second = await process.ready()
        assert first.is_renewed
        assert (first.ended.is_set(), second.ended.is_set()) == (True, False)
        assert first.reason == "it was told to end"
        assert second.process_id not in (None, first.process_id)
        await process.renew()
        assert process.lives == 3
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("the child is renewed", "info"),
        ("the child is ready", "info"),
    ]


async def test_one_that_does_not_end_to_be_renewed_is_killed(folder: Path) -> None:
    async with kept(command_of(folder, "stubborn")) as process:
        assert await process.start()
        await process.renew(stop_seconds=0.2)
        assert process.lives == 2
        process.give_up(await process.ready())  # it would not end when the server does


async def test_where_the_next_one_cannot_be_started(folder: Path) -> None:
    async with kept(command_of(folder, "once")) as process:
        assert await process.start()
        with pytest.raises(RenewError, match="no memory"):
            await process.renew()
        (folder / "mark").unlink()  # it is tried on
        assert (await process.ready()).process_id is not None


async def test_one_that_could_not_be_started_is_not_renewed(folder: Path) -> None:
    async with kept(command_of(folder, "wrong usage")) as process:
        assert not await process.start()
        assert process.is_hopeless
        with pytest.raises(RenewError, match="not tried any more"):
            await process.renew()


async def test_log_lines_tell_it_from_others(folder: Path) -> None:
    command = replace(command_of(folder, "refuses"), labels={"replica": "2"})
    with capture_logs() as logged:
        async with kept(command) as process:
            assert not await process.start()
    assert {line["replica"] for line in logged} == {"2"}
    assert {line["event"] for line in logged} == {"the child ended"}
    assert {line["last_line"] for line in logged} == {"error: no model there"}  # which is told once


async def test_one_that_does_not_answer_is_killed(folder: Path) -> None:
    async with kept(command_of(folder)) as process:
        assert await process.start()
        first = await process.ready()
        os.kill(first.process_id or 0, signal.SIGSTOP)
        process.give_up(first)
        await first.ended.wait()
        second = await process.ready()
        process.give_up(first)  # is not there any more
        assert is_alive(second.process_id or 0)
        assert not second.ended.is_set()
    assert first.reason == "its process ended by signal 9"


async def test_one_that_fails_again_and_again_is_given_up(folder: Path) -> None:
    with capture_logs() as logged:
        async with kept(command_of(folder, "refuses")) as process:
            assert not await process.start()
    assert [line["code"] for line in logged if line["event"] == "the child ended"] == [1, 1, 1]
    assert process.last_line == "error: no model there"


class SlowStarts(Restarts):
    """Takes each start for one that took minutes, as loading a large model does."""

    def seconds_after(self, lived_seconds: float) -> float:
        return super().seconds_after(lived_seconds + 600)


async def test_starts_that_take_long_to_fail_are_given_up_too(folder: Path) -> None:
    restarts = SlowStarts(lambda: 0.0, first_seconds=0.001)
    with capture_logs() as logged:
        async with KeptProcess(command_of(folder, "refuses"), restarts) as process, asyncio.timeout(30):
            assert not await process.start()
    assert [line["code"] for line in logged if line["event"] == "the child ended"] == [1, 1, 1]


async def test_one_that_would_fail_again_is_given_up_at_once(folder: Path) -> None:
    with capture_logs() as logged:
        async with kept(command_of(folder, "wrong usage")) as process:
            assert not await process.start()
    assert logged == []  # it is for whoever wanted it started
    assert process.last_line == "error: no such option"


async def test_an_error_that_is_not_its_last_word_is_told(folder: Path) -> None:
    with capture_logs() as logged:
        async with kept(command_of(folder, "goes on")) as process:
            assert not await process.start()
    assert [line["event"] for line in logged] == ["error: no disk", "but there is memory"]
    assert process.last_line == "error: no memory either"


async def test_one_that_is_not_ready_yet_is_not_waited_for_at_the_end(folder: Path) -> None:
    process = kept(command_of(folder, "loads"))
    starting = asyncio.create_task(process.start())
    while process.last_line != "loading":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with capture_logs() as logged:
        async with asyncio.timeout(30):  # of the 60 s that one that is ready would have
            await process.stop()
    assert not await starting
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("the child was not ready yet: it is killed", "info")
    ]


async def test_one_that_does_not_become_ready_is_killed(folder: Path) -> None:
    with capture_logs() as logged:
        async with kept(command_of(folder, "silent", ready_seconds=0.2)) as process:
            assert not await process.start()
    assert [line["code"] for line in logged if line["event"] == "the child ended"] == [-9] * 3


async def test_one_that_does_not_end_is_killed(folder: Path) -> None:
    with capture_logs() as logged:
        async with kept(command_of(folder, "stubborn", stop_seconds=0.2)) as process:
            assert await process.start()
            process_id = process.process_id
    assert [line["event"] for line in logged][-1] == "the child does not end: it is killed"
    assert not is_alive(process_id or 0)


async def test_stopped_while_it_starts(folder: Path) -> None:
    process = kept(command_of(folder, "silent"))
    starting = asyncio.create_task(process.start())
    async with asyncio.timeout(60):
        while process.process_id is None:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)
    process_id = process.process_id
    await process.stop()
    assert not await starting
    assert not is_alive(process_id)
    await process.stop()


async def test_nothing_is_started_while_somebody_else_does_the_work(folder: Path) -> None:
    gone = asyncio.Event()

    async def follow(found: object) -> bool:
        assert callable(found)
        if gone.is_set():
            return False
        found()
        await gone.wait()
        return True

    async with KeptProcess(command_of(folder), Restarts(lambda: 0.0), follow) as process:
        assert await process.start()
        assert process.process_id is None
        gone.set()
        assert (await process.ready()).process_id is not None


@pytest.mark.parametrize("mode", ["", "stubborn"])
async def test_it_ends_when_its_standard_input_does(folder: Path, mode: str) -> None:
    """As it does when the server is killed, by force if need be."""
    command = command_of(folder, mode, stop_seconds=0.2)
    process = await asyncio.create_subprocess_exec(
        *command.arguments(),
        env=command.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"serving at")
    process.stdin.close()
    assert await process.wait() == (1 if mode else -signal.SIGTERM)


def test_the_environment_has_none_of_the_servers_settings() -> None:
    command = ChildCommand(
        name="", module="", logger="", settings={"A": "1"}, ready_seconds=1, stop_seconds=1, attempts=1
    )
    given = {"PATH": "/bin", "INSTGENIE_AUTH__URL_SECRET": "s", "instgenie_port": "1", "A": "0"}
    assert command.environment(given) == {"PATH": "/bin", "A": "1"}


def test_secrets_are_not_shown() -> None:
    command = ChildCommand(
        name="", module="", logger="", settings={"A": "secret"}, ready_seconds=1, stop_seconds=1, attempts=1
    )
    assert "secret" not in repr(command)
