"""The guard tells what is broken, and what needs no clock holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import smoke
from bench.smoke import Check, run
from instgenie.checkpoint import load_checkpoint


def figures(*values: float) -> Callable[[], float]:
    """One after the other."""
    found = iter(values)
    return lambda: next(found)


def test_bounds_are_kept_on_both_sides() -> None:
    check = Check(name="some", measure=figures(), least=1.0, most=2.0)
    assert [check.holds(figure) for figure in (0.99, 1.0, 2.0, 2.01, math.nan)] == [False, True, True, False, False]
    assert check.bound == "at least 1, at most 2"


def test_a_time_has_a_second_chance_and_nothing_else_has() -> None:
    told: list[str] = []
    checks = [
        Check(name="slow once", measure=figures(1.0, 3.0), least=2.5, is_timed=True),
        Check(name="slow twice", measure=figures(1.0, 2.0, 3.0), least=2.5, is_timed=True),
        Check(name="too many bytes", measure=figures(0.6, 0.5), most=0.56),
        Check(name="fine", measure=figures(0.5), most=0.56),
    ]
    assert run(checks, told.append) == ["slow twice", "too many bytes"]
    assert "BROKEN slow twice: 2, at least 2.5" in told
    assert sum(line.startswith("again") for line in told) == 2


def test_a_broken_claim_ends_with_1_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "load_model", lambda _: None)
    monkeypatch.setattr(smoke, "Steps", lambda *_, **__: None)
    monkeypatch.setattr(smoke, "medium_flux", lambda _: None)
    monkeypatch.setattr(smoke, "claims", lambda *_: [Check(name="the ratio", measure=figures(3.0), most=1.15)])
    with pytest.raises(SystemExit, match="1 broken: the ratio"):
        smoke.main()
    monkeypatch.setattr(smoke, "claims", lambda *_: [Check(name="the ratio", measure=figures(1.0), most=1.15)])
    smoke.main()


def test_claims_without_a_clock_hold(tiny_builtin: Path) -> None:
    assert smoke.over_optimum() <= 1e-9
    assert 0.5 < smoke.int8_bytes() <= 0.56
    checkpoint = load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))
    assert smoke.changed_outside(checkpoint) == 0


def test_time_is_of_the_processor() -> None:
    assert smoke.cpu_seconds(lambda: time.sleep(0.2)) < 0.1


def test_a_ratio_is_the_median_of_rounds_after_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: spent)

    def work(*seconds: float) -> Callable[[], None]:
        """Takes so long in the rounds."""
        left = iter(seconds)

        def spend() -> None:
            nonlocal spent
            spent += next(left)

        return spend

    rounds = [100.0] * (smoke.ROUNDS // 2) + [4.0] + [1.0] * (smoke.ROUNDS // 2)
    assert smoke.time_ratio(work(1.0, *rounds), work(*[1.0] * (smoke.ROUNDS + 1))) == 4
