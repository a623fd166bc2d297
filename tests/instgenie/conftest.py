"""Tiny checkpoints, loaded once, and one thread to compute them with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from instgenie.checkpoint import Checkpoint, load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on several threads wait for each other: 330 ms a step instead of 2 where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def builtin_kind(tiny_builtin: Path) -> Checkpoint:
    """The embedded model's kind: fill conditioning, classifier-free guidance, 64x64 pixels are 64 tokens."""
    return load_checkpoint(tiny_builtin, torch.float32, CPU)


@pytest.fixture(scope="session")
def flux_fill_kind(tiny_flux_fill: Path) -> Checkpoint:
    """Flux Fill's kind: fill conditioning, distilled guidance, 64x64 pixels are 16 tokens."""
    return load_checkpoint(tiny_flux_fill, torch.float32, CPU)
