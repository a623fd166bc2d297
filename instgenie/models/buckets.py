"""Lengths that packed tensors are padded to, so that few different shapes are computed."""

from __future__ import annotations

GRAIN = 16  # what tensor cores and vector registers want lengths to be a multiple of
STEPS_PER_DOUBLING = 8


def bucket(length: int) -> int:
    """The next bucket: 16, 32, ... 128, then eight from each power of two to the next (144, 160, ... 256, 288, ...).

    Less than an eighth of the length is added, or less than 16: on average a sixteenth. Between 128 and 16,384 there
    are 56 buckets.
    """
    length = max(length, 1)
    below = 1 << max(length - 1, 1).bit_length() - 1  # the last power of two that is less
    step = max(GRAIN, below // STEPS_PER_DOUBLING)
    return -(-length // step) * step
