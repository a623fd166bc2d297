"""What limits may be."""

from __future__ import annotations

from typing import Any

import pytest

from instgenie.sched.limits import BatchLimits


@pytest.mark.parametrize("name", ["edits", "rows", "num_bytes", "encode_ahead", "lane_every"])
def test_a_number_below_one_is_refused_by_name(name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} 0 is below 1"):
        BatchLimits(**changes)
    changes[name] = 1
    assert getattr(BatchLimits(**changes), name) == 1


@pytest.mark.parametrize("share", [0, -0.5, float("nan")])
def test_a_share_of_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"stage_share {share} is not above 0"):
        BatchLimits(stage_share=share)
    assert BatchLimits(stage_share=0.01).stage_share == 0.01


def test_an_unknown_way_of_joining_is_refused() -> None:
    with pytest.raises(ValueError, match="joins 'never'"):
        BatchLimits(joins="never")  # type: ignore[arg-type]
