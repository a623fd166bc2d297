"""Pictures to edit, and a way to run the command line in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from instgenie_server.cli.app import app
from tests.server.live_server import tiny_server

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on several threads wait for each other: 330 ms a step instead of 2 where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run() -> Run:
    """Runs `instgenie` with arguments."""

    def invoke(*arguments: str | Path) -> Result:
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"TERM": "dumb", "COLUMNS": "200"}
        )

    return invoke


@pytest.fixture
def edit(run: Run, tiny_builtin: Path) -> Run:
    """Runs `instgenie edit` with the tiny model and a prompt."""
    return lambda *arguments: run(
        "edit", "--model", tiny_builtin, "--dtype", "float32", "--prompt", "a red apple", *arguments
    )


@pytest.fixture
def picture() -> Image.Image:
    """A random RGB picture, larger than the tiny model's canvas and not made of whole tokens."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))


@pytest.fixture
def mask() -> Image.Image:
    """A luminance mask of its size: white, and edited, in columns 40..69 and rows 30..49."""
    pixels = np.zeros((90, 130), np.uint8)
    pixels[30:50, 40:70] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def image_path(tmp_path: Path, picture: Image.Image) -> Path:
    """The picture as a file."""
    return saved(picture, tmp_path / "image.png")


@pytest.fixture
def mask_path(tmp_path: Path, mask: Image.Image) -> Path:
    """The mask as a file."""
    return saved(mask, tmp_path / "mask.png")


def saved(picture: Image.Image, path: Path) -> Path:
    """Write the picture; returns the path."""
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def server(tiny_builtin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of the tiny model."""
    with tiny_server(tiny_builtin, tmp_path_factory.mktemp("server")) as url:
        yield url
