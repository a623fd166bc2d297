"""What the loader measures: how long the computation waited, and what loads took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instgenie.pipeline.copies import Copies
from instgenie.pipeline.step_source import Loaded
from instgenie.tracing import open_trace
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import CPU, RECORD_BYTES, DeviceCopies, Source, a_loader, compute, load, release

pytestmark = pytest.mark.timeout(60)


class SlowTime:
    """A clock that stands still but where somebody reads."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let some time pass."""
        self.now += seconds


def test_stalls_are_what_the_computation_waited_for_each_block() -> None:
    a, time = Source("a"), SlowTime()
    with a_loader(0, Copies(CPU, clock=time)) as loader:  # a block is read when it is needed, not before
        one = load(loader, a, range(2, 5))
        a.on_read = lambda: time.pass_by(0.25)
        compute(one, range(2, 4))
        a.on_read = lambda: None
        compute(one, range(4, 5))
        assert one.stalls_ms() == {2: 250.0, 3: 250.0, 4: 0.0}
        one.release()
        assert one.stalls_ms() == {2: 250.0, 3: 250.0, 4: 0.0}


def test_waits_for_a_block_add_up() -> None:
    a, time = Source("a"), SlowTime()
    with a_loader(0, Copies(CPU, clock=time)) as loader:
        one = load(loader, a, range(1))
        a.on_read = lambda: time.pass_by(0.25)
        one.payload(0)
        one.payload(0)  # is there
        assert one.stalls_ms() == {0: 250.0}
        one.computed(0)
        one.want(range(1))
        one.payload(0)
        assert one.stalls_ms() == {0: 500.0}
        one.release()


def test_what_is_there_is_not_waited_for() -> None:
    a, time = Source("a"), SlowTime()
    a.on_read = lambda: time.pass_by(0.25)
    with a_loader(copies=Copies(CPU, clock=time)) as loader:
        one = load(loader, a, range(4))
        wait_until(lambda: one.is_there(3))
        compute(one, range(4))
        assert set(one.stalls_ms().values()) == {0.0}
        one.release()


def test_loads_are_reported_with_their_tier_and_bytes() -> None:
    loaded: list[Loaded] = []
    sources = [Source("a", tier="object"), Source("b", is_timed=False), Source("c")]
    sources[2].failures[0] = None
    with a_loader(on_loaded=loaded.append) as loader:
        loads = [load(loader, source, range(3)) for source in sources]
        wait_until(lambda: all(one.is_there(2) or one.error for one in loads))
        assert loads[0].read_ms > 0
        release(loads)
    # What was not read, or was read ahead by others, says nothing of a tier.
    assert [(load.tier, load.num_bytes) for load in loaded] == [("object", RECORD_BYTES)] * 3
    assert all(0 < load.ms < 1000 for load in loaded)


def test_small_records_that_are_read_together_are_reported_together() -> None:
    a, loaded = Source("a"), list[Loaded]()
    with a_loader(on_loaded=loaded.append) as loader:
        one = loader.load("a", a, range(6), 1000, 1000)
        wait_until(lambda: one.is_there(5))
        one.release()
    assert [load.num_bytes for load in loaded] == [6000]


def test_a_load_takes_what_its_copy_takes_where_that_is_longer_than_reading() -> None:
    a, loaded = Source("a"), list[Loaded]()
    device = DeviceCopies(is_held=True)
    with a_loader(copies=device, on_loaded=loaded.append) as loader:
        one = load(loader, a, range(2))
        wait_until(lambda: one.is_there(1))
        assert loaded == []  # copies were begun, no more
        device.finish()
        wait_until(lambda: len(loaded) == 2)
        assert all(8.0 <= load.ms < 1000 for load in loaded)  # reading takes longer on a busy machine
        compute(one, range(2))
        one.release()


def test_a_trace_shows_which_blocks_were_waited_for(tmp_path: Path) -> None:
    with open_trace(tmp_path / "trace.json"), a_loader(0) as loader:  # a block is read when it is needed, not before
        one = load(loader, Source("a"), range(2, 5))
        one.payload(2)
        one.payload(2)  # is there
        one.payload(4)
        one.release()
    spans = [event for event in json.loads((tmp_path / "trace.json").read_text()) if event["ph"] == "X"]
    assert [(span["name"], span["args"]["block"]) for span in spans] == [("load wait", 2), ("load wait", 4)]
