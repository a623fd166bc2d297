"""The engine in the server's process, as settings ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from instgenie.errors import CheckpointError, ReplicaError
from instgenie.orders import EditOrder, Pixels
from instgenie_server.local_engine import open_local_replica
from instgenie_server.settings import CacheSettings, EngineSettings

ORDER = EditOrder(
    id="a",
    picture=Pixels(16, 16, "RGB", bytes(768)),
    mask=b"\1" * 16 + bytes(240),
    prompt="a red ball",
    seed=1,
    steps=1,
)


async def test_it_is_ready_and_then_closed(tiny_builtin: Path) -> None:
    threads = torch.get_num_threads()
    try:
        settings = EngineSettings(model=tiny_builtin, dtype="float32", threads=1)
        async with open_local_replica(settings, CacheSettings(service=None, host_bytes=0)) as replica:
            assert (replica.model.name, replica.model.dtype) == ("tiny-builtin", "float32")
            assert 0 < replica.predicted_seconds(ORDER) < 60
            outcome = await replica.edit(ORDER, lambda _: None)
            assert (outcome.width, outcome.height) == (16, 16)
            assert outcome.timings.cache in ("cold", "refused")
        with pytest.raises(ReplicaError):
            await replica.edit(ORDER, lambda _: None)
    finally:
        torch.set_num_threads(threads)


async def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        async with open_local_replica(EngineSettings(model=tmp_path, dtype="float32"), CacheSettings()):
            raise AssertionError("there is nothing to open")
