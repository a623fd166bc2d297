"""Where a server's replicas run: devices and cores, shared out."""

from __future__ import annotations

import os
from pathlib import Path

from instgenie_server.replica_process.replica_command import Place
from instgenie_server.settings import EngineSettings


def places(engine: EngineSettings, cores: int | None = None) -> list[Place]:
    """One for each replica that the settings ask for.

    Devices are taken in turn. Where there are several replicas, those that may compute on the CPU share its cores.

    Args:
        cores: None is those that this process may use.
    """
    devices = engine.devices or (None,)
    count = engine.replicas or len(devices)
    of_each = [devices[number % len(devices)] for number in range(count)]
    on_cpu = sum(device in (None, "cpu") for device in of_each)
    threads = engine.threads
    if threads is None and on_cpu > 1:
        threads = max(1, (cores or len(os.sched_getaffinity(0))) // on_cpu)
    return [
        Place(
            name=str(number),
            device=device,
            threads=threads if device in (None, "cpu") else engine.threads,
            trace=engine.trace if count == 1 else _numbered(engine.trace, number),
        )
        for number, device in enumerate(of_each, start=1)
    ]


def _numbered(file: Path | None, number: int) -> Path | None:
    """`trace.json` -> `trace.1.json`."""
    return None if file is None else file.with_name(f"{file.stem}.{number}{file.suffix}")
