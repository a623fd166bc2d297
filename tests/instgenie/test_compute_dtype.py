"""The choice of a compute dtype."""

from __future__ import annotations

import pytest
import torch

from instgenie.compute_dtype import MIN_ADVANTAGE, DtypeSpeeds, dtype_of, measure_dtypes
from instgenie.errors import ParameterError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [
        (100.0, 250.0, torch.bfloat16),
        (100.0, 100 * MIN_ADVANTAGE, torch.float32),
        (100.0, 90.0, torch.float32),
        (158.0, 3.0, torch.float32),
    ],
)
def test_bfloat16_has_to_be_clearly_faster(float32: float, bfloat16: float, chosen: torch.dtype) -> None:
    assert DtypeSpeeds(float32, bfloat16).chosen == chosen


def test_measurement_gives_speeds() -> None:
    speeds = measure_dtypes(CPU, tokens=16, width=32, repeats=2)
    assert speeds.float32 > 0
    assert speeds.bfloat16 > 0


def test_settings() -> None:
    assert dtype_of("float32", CPU) == torch.float32
    assert dtype_of("bfloat16", CPU) == torch.bfloat16
    assert dtype_of("auto", CPU) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("choice", ["float16", "", "Float32"])
def test_unknown_setting(choice: str) -> None:
    with pytest.raises(ParameterError, match=f"dtype: '{choice}' is not auto, float32 or bfloat16"):
        dtype_of(choice, CPU)
