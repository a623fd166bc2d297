"""When requests come: evenly at random, or in bursts. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

ArrivalsName = Literal["poisson", "bursty"]

# A burst has three times the mean rate, a tenth of the time, and brings some hundred requests to a fleet of one.
_BURST_RATE = 3.0
_BURST_SHARE = 0.1
_BURST_REQUESTS = 100.0


def poisson_times(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[count] seconds, rising, of a process of one request a second; divide them by the rate that is wanted."""
    return np.cumsum(rng.exponential(1.0, count))


def bursty_times(
    count: int,
    rng: np.random.Generator,
    burst_rate: float = _BURST_RATE,
    burst_share: float = _BURST_SHARE,
    burst_requests: float = _BURST_REQUESTS,
) -> NDArray[np.float64]:
    """[count] seconds, rising, of a Markov-modulated Poisson process of two states; one request a second on average.

    Args:
        burst_rate: requests a second while a burst lasts.
        burst_share: of the time that bursts take.
        burst_requests: of a burst, on average.

    Raises:
        ValueError: bursts would bring more than all requests, or none more than usual.
    """
    if not 0 < burst_share < 1 or not 1 < burst_rate < 1 / burst_share or burst_requests <= 0:
        raise ValueError(f"bursts of {burst_rate} times the rate cannot take {burst_share} of the time")
    rates = ((1 - burst_rate * burst_share) / (1 - burst_share), burst_rate)
    burst_seconds = burst_requests / burst_rate
    seconds = (burst_seconds * (1 - burst_share) / burst_share, burst_seconds)
    parts: list[NDArray[np.float64]] = []
    begun, drawn, is_burst = 0.0, 0, bool(rng.random() < burst_share)
    while drawn < count:
        lasts = rng.exponential(seconds[is_burst])
        times = begun + np.sort(rng.uniform(0.0, lasts, rng.poisson(rates[is_burst] * lasts)))
        parts.append(times)
        drawn += len(times)
        begun, is_burst = begun + lasts, not is_burst
    return np.concatenate(parts)[:count]
