"""What a device can do at best: the figures that others are given as a share of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from instgenie.host import await_device

ROUNDS = 5
CALLS = 10  # of a round: what a call and the wait at its end take is small beside them
WARM_UP_SECONDS = 0.5  # clocks of a GPU rise only under load

Clock = Callable[[], float]  # seconds


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


def measure_ceilings(
    device: torch.device,
    dtype: torch.dtype,
    side: int = 8192,
    copied: int = 1 << 30,
    clock: Clock = time.perf_counter,
) -> Ceilings:
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
        matmul_tflops=2 * side**3 / _seconds(lambda: torch.mm(first, second, out=product), device, clock) / 1e12,
        copy_gb_per_second=copied / _seconds(lambda: target.copy_(source), device, clock) / 1e9,
        load_gb_per_second=copied / _seconds(lambda: target.copy_(host, non_blocking=True), device, clock) / 1e9,
    )


def _seconds(work: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Of one call."""

    def round_seconds() -> float:
        started = clock()
        for _ in range(CALLS):
            work()
        await_device(device)
        return clock() - started

    warm_from = clock()
    while clock() - warm_from < WARM_UP_SECONDS:
        round_seconds()
    return median(round_seconds() for _ in range(ROUNDS)) / CALLS
