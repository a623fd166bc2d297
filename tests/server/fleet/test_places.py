"""Devices and cores, shared out."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie_server.fleet.places import places
from instgenie_server.replica_process.replica_command import Place
from instgenie_server.settings import EngineSettings


def placed(**settings: object) -> list[tuple[str | None, int | None]]:
    return [(place.device, place.threads) for place in places(EngineSettings.model_validate(settings), cores=8)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(None, None)]),
        ({"threads": 3}, [(None, 3)]),
        ({"devices": "cpu"}, [("cpu", None)]),
        ({"replicas": 3}, [(None, 2)] * 3),
        ({"replicas": 16}, [(None, 1)] * 16),
        ({"replicas": 2, "threads": 8}, [(None, 8)] * 2),
        ({"devices": "cuda:0,cuda:1"}, [("cuda:0", None), ("cuda:1", None)]),
        ({"devices": "cuda:0,cuda:1", "replicas": 3}, [("cuda:0", None), ("cuda:1", None), ("cuda:0", None)]),
        ({"devices": "cuda:0,cpu,cpu"}, [("cuda:0", None), ("cpu", 4), ("cpu", 4)]),
        ({"devices": "cuda:0,cpu"}, [("cuda:0", None), ("cpu", None)]),
    ],
)
def test_devices_and_threads(settings: dict[str, object], expected: list[tuple[str | None, int | None]]) -> None:
    assert placed(**settings) == expected


def test_each_has_a_trace_of_its_own() -> None:
    trace = Path("/tmp/trace.json")
    assert places(EngineSettings(trace=trace))[0].trace == trace
    several = places(EngineSettings(trace=trace, replicas=2), cores=2)
    assert several == [
        Place("1", threads=1, trace=Path("/tmp/trace.1.json")),
        Place("2", threads=1, trace=Path("/tmp/trace.2.json")),
    ]
