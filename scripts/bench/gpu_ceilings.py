"""What a device can do at best: the figures that all others are given as a share of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from bench.harness import timed_ms
from instgenie.host import await_device

ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Medians of some rounds.

    Attributes:
        matmul_tflops: 10^12 operations a second of a product of two square matrices, normal random numbers.
        copy_gb_per_second: 10^9 bytes that are copied within the device's memory; each is read and written.
        load_gb_per_second: the same, from page-locked host memory to the device; on a CPU from memory to memory.
    """

    matmul_tflops: float
    copy_gb_per_second: float
    load_gb_per_second: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, side: int = 8192, copied: int = 1 << 30) -> Ceilings:
    """Take the device's measure.

    Args:
        side: of the matrices.
        copied: bytes a copy.
    """
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(first)
    source, target = (torch.ones(copied, device=device, dtype=torch.uint8) for _ in range(2))
    host = torch.ones(copied, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return Ceilings(
        matmul_tflops=2 * side**3 / _seconds(lambda: torch.mm(first, second, out=product), device) / 1e12,
        copy_gb_per_second=copied / _seconds(lambda: target.copy_(source), device) / 1e9,
        load_gb_per_second=copied / _seconds(lambda: target.copy_(host, non_blocking=True), device) / 1e9,
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def run() -> None:
        work()
        await_device(device)

    run()  # does not count
    return median(timed_ms(run) for _ in range(ROUNDS)) / 1000
