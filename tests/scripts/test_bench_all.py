"""All benchmarks run, whatever comes of one of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import all as every
from bench.all import BENCHES, FOLDER, Bench, Outcome, run, run_all, summary

SCRIPT = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
minutes = float(sys.argv[sys.argv.index("--minutes") + 1])
{body}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the benches are looked for."""
    monkeypatch.setattr(every, "FOLDER", tmp_path)
    return tmp_path


def a_bench(folder: Path, name: str, body: str, share: float = 0.25, least_minutes: float = 0.0) -> Bench:
    (folder / f"{name}.py").write_text(SCRIPT.format(body=body))
    return Bench(name, share, every._by_minutes, least_minutes)


def test_one_that_fails_does_not_stop_the_others(folder: Path) -> None:
    benches = [
        a_bench(folder, "broken", "sys.exit(3)"),
        a_bench(folder, "fine", "(out / 'fine.json').write_text(str(minutes))", share=0.5),
    ]
    outcomes = run_all(benches, 8, folder / "out")
    assert [outcome.failure for outcome in outcomes] == ["ended with status 3", None]
    assert (folder / "out" / "fine.json").read_text() == "4.0"
    assert re.search(r"broken .* ended with status 3\nfine .* done\nin all", summary(outcomes))


def test_one_that_hangs_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "GRACE_SECONDS", 0)
    bench = a_bench(folder, "endless", "time.sleep(600)")
    assert run(bench, 0.1, folder).failure == "stopped after 2 s"


def test_one_whose_share_is_too_short_is_left_out(folder: Path) -> None:
    bench = a_bench(folder, "long", "sys.exit(3)", share=0.1, least_minutes=2)
    assert run(bench, 10, folder).failure == "left out: it takes 2 minutes (--minutes 20)"


@pytest.mark.parametrize("failure", [None, "ended with status 1"])
def test_the_end_says_what_failed(
    failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def outcomes(benches: Sequence[Bench], *_: object) -> list[Outcome]:
        asked.append([bench.name for bench in benches])
        return [Outcome(asked[0][0], 3.0, failure)]

    monkeypatch.setattr(every, "run_all", outcomes)
    monkeypatch.setattr(sys, "argv", ["all.py", "--out", str(tmp_path), "--only", "tiers,speed"])
    if failure is None:
        every.main()
    else:
        with pytest.raises(SystemExit, match="1"):
            every.main()
    assert asked == [["speed", "tiers"]]
    assert (failure or "done") in capsys.readouterr().out


def test_a_bench_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["all.py", "--only", "speed,spede"])
    with pytest.raises(SystemExit):
        every.main()
    assert "there is no spede" in capsys.readouterr().err


def test_shares_are_of_one_whole_and_half_an_hour_is_enough_for_all() -> None:
    assert sum(bench.share for bench in BENCHES) <= 1
    assert all(bench.share * 30 >= bench.least_minutes for bench in BENCHES)


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_benches_are_there_and_take_what_they_are_given(bench: Bench, tmp_path: Path) -> None:
    text = bench.script.read_text()
    if "arguments(__doc__" in text:
        text += (FOLDER / "harness.py").read_text()
    options = [argument for argument in bench.arguments(3, tmp_path) if argument.startswith("--")]
    assert options
    assert all(f'"{option}"' in text for option in options)


def test_more_time_is_more_rounds(tmp_path: Path) -> None:
    (engine,) = (bench for bench in BENCHES if bench.name == "engine")
    few, many = (int(engine.arguments(minutes, tmp_path)[1]) for minutes in (0.1, 5))
    assert few == 1
    assert many > 20
