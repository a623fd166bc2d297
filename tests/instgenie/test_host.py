"""What the engine says of the machine."""

from __future__ import annotations

import torch

from instgenie.host import compute_device, describe_devices, num_threads, set_threads


def test_devices() -> None:
    lines = describe_devices()
    assert lines[-1].startswith("cpu ")
    assert len(lines) == 1 + torch.cuda.device_count()
    assert compute_device().type == ("cuda" if len(lines) > 1 else "cpu")


def test_threads() -> None:
    before = num_threads()
    try:
        set_threads(2)
        assert num_threads() == torch.get_num_threads() == 2
    finally:
        set_threads(before)
