"""The machine and the libraries that this process computes with."""

from __future__ import annotations

import os

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


def compute_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


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
