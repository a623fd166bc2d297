"""The benchmark of batching, on a tiny model: its systems are what they say, its files are complete."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
import torch

from bench import batching, batching_joins, batching_overhead, batching_sizes
from bench.batching_load import equal_edits, template_pictures
from bench.batching_play import Served
from bench.batching_poisson import LOADS, ONE_BY_ONE, Capacity, load_row, one_by_one, ratios
from bench.batching_spans import RUNNER, Gap, Join, read_events
from bench.batching_systems import Workplace, systems
from instgenie.checkpoint import load_checkpoint
from instgenie.editor import Editor
from instgenie.orders import EditOutcome, PhaseTimings
from instgenie.prepared_edit import PreparedEdit
from instgenie.request import EditRequest
from instgenie.tracing import open_trace

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 3
SYSTEMS = ("ours", "ours, static", "ours, inline", "dense, static")


@pytest.fixture
def workplace(tiny_builtin: Path) -> Workplace:
    return Workplace(load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu")))


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Threads in which edits were prepared."""
    threads: list[str] = []
    prepare = Editor.prepare

    def watched(editor: Editor, request: EditRequest) -> PreparedEdit:
        threads.append(threading.current_thread().name)
        return prepare(editor, request)

    monkeypatch.setattr(Editor, "prepare", watched)
    return threads


async def test_every_system_does_what_its_name_says(workplace: Workplace, preparing: list[str], tmp_path: Path) -> None:
    pictures = template_pictures(1)
    images: dict[str, bytes] = {}
    for system in systems(workplace.checkpoint):
        [order] = equal_edits(pictures, 1, 0.11, STEPS, cache=system.cache)
        path = tmp_path / f"{system.name}.json"
        async with workplace.replica(system, pictures, STEPS) as replica:
            preparing.clear()
            with open_trace(path):
                outcome = await replica.edit(order, lambda _: None)
        events = read_events(path)
        threads = {event.track for event in events if event.name == "finish"} | set(preparing)
        assert (threads == {RUNNER}) == (system.name == "ours, inline")
        assert (RUNNER in threads) == system.is_inline
        assert sum(event.name == "forward" for event in events) == STEPS
        images[system.name] = outcome.image
        timings = outcome.timings
        is_dense = system.name == "dense, static"
        assert (timings.cache, timings.tokens_active == timings.tokens_total) == (
            "off" if is_dense else "hit",
            is_dense,
        )
    assert tuple(images) == SYSTEMS
    assert len({images[name] for name in SYSTEMS[:3]}) == 1


def test_static_systems_batch_as_many_edits_as_ours(workplace: Workplace) -> None:
    ours, static, inline, dense = (system.limits for system in systems(workplace.checkpoint))
    assert ours == inline
    assert (ours.joins, static.joins, dense.joins) == ("step", "empty", "empty")
    assert ours.edits == static.edits == dense.edits == static.encode_ahead == dense.encode_ahead


async def test_what_inline_work_raises_goes_to_who_asked(workplace: Workplace) -> None:
    inline = systems(workplace.checkpoint)[2]
    async with workplace.replica(inline, [], STEPS) as replica:
        [order] = equal_edits(template_pictures(1), 1, 0.11, STEPS, cache="only")
        with pytest.raises(Exception, match="is not cached"):
            await replica.edit(order, lambda _: None)


def test_edits_one_by_one_wait_for_those_before() -> None:
    assert one_by_one([1.0, 1.5, 2.0, 10.0], 2.0) == [3.0, 5.0, 7.0, 12.0]


def an_outcome(batch: float) -> EditOutcome:
    timings = PhaseTimings(0, 0, 0, 0, 0, "hit", steps=1, dense_steps=0, tokens_active=1, tokens_total=1, batch=batch)
    return EditOutcome(b"", 1, 1, timings)


def test_load_row_is_of_latencies_and_of_the_whole_time() -> None:
    served = [Served(1 + n, 2 + 2 * n, an_outcome(float(n))) for n in range(101)]  # latencies 1 ... 101
    row = load_row("ours", 0.3, served)
    assert (row.system, row.load, row.mean, row.p50, row.p95, row.p99) == ("ours", 0.3, 51, 51, 96, 100)
    assert row.edits_per_second == 101 / (202 - 1)
    assert row.mean_batch == 50


def test_ratios_are_of_means_and_capacities() -> None:
    capacities = [Capacity("dense", 2.0, 1, 8, 1), Capacity("ours", 8.0, 1, 8, 0.2)]
    times = {"ours": 1.0, "dense": 20.0, ONE_BY_ONE: 10.0}
    rows = [
        load_row(name, load, [Served(0.0, load * seconds, an_outcome(1))])
        for name, seconds in times.items()
        for load in LOADS
    ]
    found = ratios(capacities, rows)
    assert found.throughput == 4
    assert found.latency == pytest.approx({"0.3": 20, "0.6": 20, "0.9": 20, "1.2": 20})
    assert found.latency_one_by_one == pytest.approx({"0.3": 10, "0.6": 10, "0.9": 10, "1.2": 10})


def test_joins_are_summed_up_by_median_and_worst() -> None:
    row = batching_joins.summary(3, [Join(1, 1, 10, 5), Join(2, 1, 30, 6), Join(5, 4, 20, 7)])
    assert (row.beside, row.joins) == (3, 3)
    assert (row.steps, row.worst_steps, row.steps_encoded, row.worst_steps_encoded) == (2, 5, 1, 4)
    assert (row.ms, row.worst_ms, row.step_ms) == (20, 30, 6)


def test_gaps_are_summed_up_by_part() -> None:
    gaps = [Gap(advance=n, update=2 * n, schedule=n / 4, assemble=n / 2, inputs=n / 4) for n in (1.0, 2.0, 6.0)]
    row = batching_overhead.summary(8, gaps, forward_ms=40)
    assert row.median_ms == {"advance": 2, "update": 4, "schedule": 0.5, "assemble": 1, "inputs": 0.5}
    assert (row.before_step_ms, row.total_ms) == (2, 8)
    assert row.p95_ms["advance"] == pytest.approx(5.6)
    with pytest.raises(ValueError, match="no two steps of 8 edits"):
        batching_overhead.summary(8, [], forward_ms=40)


def test_sizes_are_compared_with_single_edits() -> None:
    times = {(0.05, 1): [10.0, 12.0, 11.0], (0.05, 4): [22.0, 22.0]}
    row = batching_sizes.size_row(0.05, 4, 0.2, times)
    assert (row.steps, row.step_ms, row.of_single) == (2, 22, 2)
    assert row.edit_steps_per_second == pytest.approx(4 / 0.022)
    with pytest.raises(ValueError, match="no step had 8 edits"):
        batching_sizes.size_row(0.05, 8, 0.2, times | {(0.05, 8): []})


@pytest.mark.slow
def test_one_run_prints_all_tables_and_writes_what_was_measured(
    tiny_builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["batching.py", "--quick", "--model", str(tiny_builtin), "--out", str(tmp_path)])
    batching.main()
    printed = capsys.readouterr().out
    for title in ("before an edit joins", "between two forwards", "Poisson arrivals", "throughput against batch size"):
        assert title in printed
    content = {}
    for name in ("joins", "overhead", "load", "sizes"):
        part = json.loads((tmp_path / f"batching_{name}.json").read_text())
        assert part.keys() == {"environment", "amounts", name}
        content[name] = part[name]
    assert [row["beside"] for row in content["joins"]] == list(batching_joins.BESIDE)
    for row in content["joins"]:
        assert 0 <= row["steps_encoded"] <= row["steps"] <= row["worst_steps"]
    assert [row["batch"] for row in content["overhead"]] == list(batching_overhead.BATCHES)
    load = content["load"]
    assert [(row["load"], row["system"]) for row in load["rows"]] == [
        (share, system) for share in LOADS for system in (*SYSTEMS, ONE_BY_ONE)
    ]
    for row in load["rows"]:
        assert 0 < row["p50"] <= row["p95"] <= row["p99"]
    assert [row["system"] for row in load["capacities"]] == [SYSTEMS[-1], SYSTEMS[0]]
    assert [(row["share"], row["batch"]) for row in content["sizes"]] == [
        (share, batch) for share in batching_sizes.SHARES for batch in batching_sizes.BATCHES
    ]
    assert (tmp_path / "batching_latency.svg").read_text().count(ONE_BY_ONE) == 1


def test_parts_and_amounts_are_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["--only", "a,x"], "the parts are a, b, c, d"), (["--steps", "0"], "at least 1")):
        monkeypatch.setattr(sys, "argv", ["batching.py", *arguments])
        with pytest.raises(SystemExit):
            batching.main()
        assert message in capsys.readouterr().err
