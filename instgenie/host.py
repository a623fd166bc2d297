"""The machine and the libraries that this process computes with."""

from __future__ import annotations

import os

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from instgenie.errors import ParameterError


def compute_device(name: str | None = None) -> torch.device:
    """A device of this machine.

    Args:
        name: cpu, cuda (the first one) or cuda:N; None is the first CUDA device, else the CPU.
    Raises:
        ParameterError: it is not there, or is of another kind.
    """
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda:0" if count else "cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (name != "cuda" and not (number.isascii() and number.isdecimal())):
        raise ParameterError("device", f"is cpu, cuda or cuda:N, not {name!r}")
    index = int(number or 0)
    if index >= count:
        raise ParameterError("device", f"there is no {kind}:{index} here, only {', '.join(describe_devices())}")
    return torch.device(kind, index)


def describe_devices() -> list[str]:
    """One line per device, the CPU last."""
    gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [*gpus, f"cpu {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"]


def set_threads(threads: int) -> None:
    """How many threads an operation on the CPU may use."""
    torch.set_num_threads(threads)


def await_device(device: torch.device) -> None:
    """Until a CUDA device has done what this thread's stream was given; the CPU has by then."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def num_threads() -> int:
    """How many threads an operation on the CPU uses."""
    return torch.get_num_threads()


def quiet_libraries() -> None:
    """No progress bars and no hints from diffusers and transformers: for programs whose own output is read."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
