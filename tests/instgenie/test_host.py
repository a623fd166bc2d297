"""What the engine says of the machine."""

from __future__ import annotations

import pytest
import torch

from instgenie.errors import ParameterError
from instgenie.host import compute_device, describe_devices, num_threads, set_threads


def test_devices() -> None:
    lines = describe_devices()
    assert lines[-1].startswith("cpu ")
    assert len(lines) == 1 + torch.cuda.device_count()
    assert compute_device().type == ("cuda" if len(lines) > 1 else "cpu")


def test_the_cpu_is_there_whatever_else_is() -> None:
    assert compute_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
def test_gpus_by_name() -> None:
    assert compute_device("cuda") == compute_device("cuda:0") == torch.device("cuda:0")


def test_devices_that_are_not_there() -> None:
    missing = torch.cuda.device_count()
    with pytest.raises(ParameterError, match=rf"device: there is no cuda:{missing} here, only .*cpu ") as raised:
        compute_device(f"cuda:{missing}")
    assert raised.value.parameter == "device"


@pytest.mark.parametrize("name", ["", "gpu", "mps", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:٣", "CUDA"])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(ParameterError, match="device: is cpu, cuda or cuda:N, not"):
        compute_device(name)


def test_threads() -> None:
    before = num_threads()
    try:
        set_threads(2)
        assert num_threads() == torch.get_num_threads() == 2
    finally:
        set_threads(before)
