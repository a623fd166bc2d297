"""`python -m instgenie.replica` with a model: as the replica in this process, across a socket."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instgenie.checkpoint import BUILTIN
from instgenie.errors import InvalidInputError, ReplicaError, TemplateNotCachedError
from instgenie.load_editor import load_editor
from instgenie.orders import EditOrder, StepReport, WarmOrder, WarmReport
from instgenie.replica.local_replica import LocalReplica
from instgenie.replica.remote_replica import RemoteReplica
from tests.cache.running_service import running_service
from tests.instgenie.edits import a_request
from tests.instgenie.replica.replica_program import ReplicaProcess
from tests.instgenie.replica.rig import opened, pixels_of
from tests.instgenie.replica.scripted_replica import until

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


def order(name: str, steps: int = 4) -> EditOrder:
    """The edit of `a_request`, under this id."""
    request = a_request()
    mask = request.mask.astype(np.uint8).tobytes()
    return EditOrder(
        id=name, picture=pixels_of(request.picture), mask=mask, prompt=request.prompt, seed=0, halo=0, steps=steps
    )


def a_process(model: Path, socket: Path, *options: str) -> ReplicaProcess:
    """A replica of the model, with one thread."""
    same = ("--dtype", "float32", "--threads", "1", "--plan", "off", "--host-bytes", str(1 << 30))
    command = ("-m", "instgenie.replica", "--listen", f"unix:{socket}", "--model", str(model), *same, *options)
    return ReplicaProcess(*command)


@pytest.fixture
def process(tiny_builtin: Path, tmp_path: Path) -> Iterator[ReplicaProcess]:
    with a_process(tiny_builtin, tmp_path / "replica.sock") as process:
        yield process


def ignore(_: object) -> None:
    """A report that nobody reads."""


async def begun(remote: RemoteReplica, orders: list[EditOrder]) -> list[asyncio.Task[object]]:
    """Edits that are all told of, the first one after a step."""
    stepped = asyncio.Event()

    def report(step: StepReport) -> None:
        if step.step:
            stepped.set()

    edits: list[asyncio.Task[object]] = [asyncio.create_task(remote.edit(order, report)) for order in orders]
    async with asyncio.timeout(60):
        await stepped.wait()
    await remote.stats()  # by when the others have come
    return edits


@pytest.mark.parametrize("kind", ["tiny", "embedded"])
async def test_edit_is_that_of_a_replica_in_this_process(kind: str, tiny_builtin: Path, tmp_path: Path) -> None:
    model = tiny_builtin if kind == "tiny" else BUILTIN
    local = LocalReplica(load_editor(model, "float32", 1, 1 << 30), "cpu")
    with a_process(model, tmp_path / "replica.sock") as process:
        remote = await RemoteReplica.connect(process.address)
        assert remote.model == local.model
        for cache in ("cold", "hit"):
            ours, theirs = [await replica.edit(order(cache), ignore) for replica in (local, remote)]
            assert (theirs.timings.cache, theirs.timings.steps) == (cache, 4)
            assert np.array_equal(np.asarray(opened(theirs.image)), np.asarray(opened(ours.image)))
        assert remote.predicted_seconds(order("x")) > 0
        await remote.close()
    await local.close()


async def test_templates_and_errors(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    with pytest.raises(TemplateNotCachedError):
        await remote.edit(replace(order("edit"), cache="only"), ignore)
    with pytest.raises(InvalidInputError, match="steps: 0 is not in") as caught:
        await remote.edit(order("edit", steps=0), ignore)
    assert caught.value.parameter == "steps"
    windows: list[WarmReport] = []
    await remote.warm(WarmOrder(id="warm", picture=order("edit").picture, steps=4), windows.append)
    [key] = [window.key for window in windows]
    assert await remote.pin([key, "none"]) == 1
    assert (await remote.edit(replace(order("edit"), cache="only"), ignore)).timings.cache == "hit"
    assert (await remote.held([key]))[key].hits == 1
    await remote.forget([key])
    assert (await remote.held([key]))[key].num_bytes is None
    assert (await remote.stats()).done >= 1
    await remote.close()


async def test_records_of_a_cache_service_serve_all_replicas(tiny_builtin: Path, tmp_path: Path) -> None:
    caches: list[str] = []
    with running_service(tmp_path / "records") as cache:
        for name in ("a", "b"):
            with a_process(tiny_builtin, tmp_path / name, "--cache", str(cache.addresses[0])) as process:
                remote = await RemoteReplica.connect(process.address)
                caches.append((await remote.edit(order("edit"), ignore)).timings.cache)
                # An edit may end before its template is committed; a warm-up of the same template does not.
                await remote.warm(WarmOrder(id="warm", picture=order("edit").picture, steps=4), ignore)
                await remote.close()
    assert caches == ["cold", "hit"]


async def test_kill_with_eight_edits_in_flight(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    edits = await begun(remote, [order(f"{n}", steps=1000) for n in range(8)])
    process.signal(signal.SIGKILL)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*edits, return_exceptions=True)
    assert all(isinstance(result, ReplicaError) and "its process has ended" in str(result) for result in results)
    await remote.close()


async def test_drain(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    edits = await begun(remote, [order(f"{n}", steps=100) for n in range(3)])
    process.signal(signal.SIGTERM)
    await until(lambda: remote.is_draining)
    with pytest.raises(ReplicaError, match="draining"):
        await remote.edit(order("late"), ignore)
    await asyncio.gather(*edits)
    code, log = await asyncio.to_thread(process.end)
    assert code == 0, log
    await remote.close()
