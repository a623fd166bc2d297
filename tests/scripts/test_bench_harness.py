"""What benchmarks that run by the minute share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import plots
from bench.harness import Deadline, Spread, arguments, ratios, timed_rounds, write_results


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_rounds_go_on_while_there_is_time_for_another_one_like_the_last() -> None:
    clock = Clock()
    numbers = []
    for number in Deadline(1, clock).rounds():
        numbers.append(number)
        clock.seconds += 30 if number == 0 else 14
    assert numbers == [0, 1, 2]  # 30, 44, 58 s


def test_the_first_round_runs_without_time_and_no_more_than_the_most_do() -> None:
    clock = Clock()
    taken = []
    for number in Deadline(1e-9, clock).rounds():
        taken.append(number)
        clock.seconds += 5
    assert taken == [0]
    assert list(Deadline(1, Clock()).rounds(most=3)) == [0, 1, 2]


def test_a_share_is_of_what_is_left() -> None:
    clock = Clock()
    deadline = Deadline(2, clock)
    clock.seconds += 60
    share = deadline.share(0.5)
    assert share.left_seconds == pytest.approx(30)
    clock.seconds += 100
    assert share.left_seconds == deadline.left_seconds == 0


def test_a_spread_is_of_ranks() -> None:
    assert Spread.of([float(n) for n in range(1, 101)]) == Spread(50.5, 95.0, 100)
    assert Spread.of([3.0, 1.0]) == Spread(2.0, 3.0, 2)


def test_rows_have_their_turn_in_every_round_and_the_first_one_does_not_count() -> None:
    calls: list[str] = []
    named = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = timed_rounds(named, Deadline(1e-9))
    assert calls == ["a", "b"] * 2
    assert [len(ms) for ms in times.values()] == [1, 1]


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_results_say_what_they_were_measured_on(tmp_path: Path) -> None:
    write_results(tmp_path / "made", "some", {"steps": 2}, [1])
    content = json.loads((tmp_path / "made" / "some.json").read_text())
    assert (content["about"], content["results"]) == ({"steps": 2}, [1])
    assert content["environment"]["torch"]
    write_results(None, "some", {}, [])


@pytest.mark.parametrize("minutes", ["0", "-1", "inf", "nan"])
def test_minutes_are_more_than_none(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("", "some", 1).parse_args(["--minutes", minutes])
    assert "not a number above 0" in capsys.readouterr().err


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        with plots.svg(tmp_path / folder / "some.svg", (4, 3), columns=2) as axes:
            axes[0].plot([1, 2], [3, 4], label="a line")
    one, other = ((tmp_path / folder / "some.svg").read_bytes() for folder in ("one", "other"))
    assert one == other
    assert one.count(b"a line") == 1
