"""Which dtype a device computes fastest in, found by measuring."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from instgenie.errors import ParameterError

# bf16 halves what the records take, but rounds; it has to be clearly faster to be worth it.
MIN_ADVANTAGE = 1.2


@dataclass(frozen=True, slots=True)
class DtypeSpeeds:
    """Matrix-product speed in GFLOP/s by dtype, and the dtype chosen from it."""

    float32: float
    bfloat16: float

    @property
    def chosen(self) -> torch.dtype:
        """bf16 where it is clearly faster. fp16 is never chosen: CPUs compute it hundreds of times slower."""
        return torch.bfloat16 if self.bfloat16 > MIN_ADVANTAGE * self.float32 else torch.float32


def measure_dtypes(device: torch.device, tokens: int = 512, width: int = 1024, repeats: int = 5) -> DtypeSpeeds:
    """Time products of the shape that a linear layer has, in each dtype; takes a few tens of milliseconds."""
    return DtypeSpeeds(*(_gflops(device, dtype, tokens, width, repeats) for dtype in (torch.float32, torch.bfloat16)))


def dtype_of(choice: str, device: torch.device) -> torch.dtype:
    """The dtype of a setting: `float32`, `bfloat16`, or `auto` for the one that measures faster on the device."""
    fixed = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if choice != "auto" and choice not in fixed:
        raise ParameterError("dtype", f"{choice!r} is not auto, {' or '.join(fixed)}")
    return measure_dtypes(device).chosen if choice == "auto" else fixed[choice]


def _gflops(device: torch.device, dtype: torch.dtype, tokens: int, width: int, repeats: int) -> float:
    x = torch.randn(tokens, width, device=device).to(dtype)
    w = torch.randn(width, width, device=device).to(dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.nn.functional.linear(x, w)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * tokens * width * width / median(seconds[1:]) / 1e9
