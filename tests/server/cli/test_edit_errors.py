"""What `instgenie edit` refuses: exit code 2, and one line that names the parameter and its limit."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tests.server.cli.conftest import Run, saved


def assert_refused(result: Result, *parts: str) -> None:
    """The command said one line with these parts in it, and nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has this size, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--steps", "0"], ["steps: 0 is not in 1..1000"]),
        (["--steps", "1001"], ["steps: 1001 is not in 1..1000"]),
        (["--halo", "-1"], ["halo: -1 is not in 0..64"]),
        (["--feather", "257"], ["feather: 257 is not in 0..256"]),
        (["--guidance", "nan"], ["guidance: nan is not in 0..100"]),
        (["--strength", "0"], ["strength: 0.0 is not in 0 < strength <= 1"]),
        (["--seed", "-1"], ["seed: -1 is not in 0.."]),
        (["--template-seed", "-1"], ["template_seed: -1 is not in 0.."]),
        (["--prompt", "x" * 32_001], ["prompt: 32001 characters are more than 32000"]),
        (["--compare", "--cache", "off"], ["compare: ", "cache is off"]),
        (["--mask-mode", "alpha"], ["mask: has no alpha"]),
    ],
)
def test_options(
    edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    assert_refused(edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", *options), *parts)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("options", [["--cache", "maybe"], ["--dtype", "float16"], ["--threads", "0"]])
def test_wrong_usage(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, options: list[str]) -> None:
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


def test_empty_mask(edit: Run, image_path: Path, tmp_path: Path) -> None:
    black = saved(Image.new("L", (130, 90)), tmp_path / "black.png")
    assert_refused(edit(image_path, "--mask", black, "-o", tmp_path / "out.png"), "mask: is empty", "white")


def test_mask_of_another_size(edit: Run, image_path: Path, tmp_path: Path) -> None:
    small = saved(Image.new("L", (64, 64), 255), tmp_path / "small.png")
    assert_refused(edit(image_path, "--mask", small, "-o", tmp_path / "out.png"), "mask: 64x64", "130x90")


def test_no_mask_for_an_opaque_picture(edit: Run, image_path: Path, tmp_path: Path) -> None:
    assert_refused(edit(image_path, "-o", tmp_path / "out.png"), "mask: is needed", "no transparent parts")


def test_no_mask_in_luminance_mode(edit: Run, image_path: Path, tmp_path: Path) -> None:
    result = edit(image_path, "--mask-mode", "luminance", "-o", tmp_path / "out.png")
    assert_refused(result, "mask: is needed", "luminance")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"not a picture", ["not a PNG, JPEG or WebP"]),
        (b"", ["not a PNG, JPEG or WebP"]),
        (png_header(20_000, 20_000), ["more than 64,000,000 pixels"]),
        (png_header(10_000, 8_000), ["10000x8000 pixels are more than 64,000,000"]),
        (png_header(1, 1), ["1x1", "shorter than 16"]),
        (png_header(1000, 20), ["1000x20", "longer than 8:1"]),
        (png_header(64, 64), ["cannot be read"]),
    ],
    ids=["text", "nothing", "huge", "large", "1x1", "thin", "cut short"],
)
@pytest.mark.parametrize("bad", ["image", "mask"])
def test_bad_files(
    edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, bad: str, content: bytes, parts: list[str]
) -> None:
    {"image": image_path, "mask": mask_path}[bad].write_bytes(content)
    assert_refused(edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png"), f"{bad}: ", *parts)


def test_missing_files(edit: Run, image_path: Path, tmp_path: Path) -> None:
    gone, out = tmp_path / "gone.png", tmp_path / "out.png"
    assert_refused(edit(gone, "--mask", image_path, "-o", out), "image: ", "gone.png", "No such file")
    assert_refused(edit(image_path, "--mask", gone, "-o", out), "mask: ", "gone.png", "No such file")


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("out.gif", ["out: ", "'.gif'", ".png, .webp, .jpg"]),
        ("out", ["out: ", "extension ''"]),
        ("nowhere/out.png", ["out: ", "nowhere does not exist"]),
        ("folder.png", ["out: ", "is a folder"]),
        ("x" * 300 + ".png", ["out: ", "too long"]),
    ],
)
def test_out_is_checked_before_anything_is_loaded(
    edit: Run, image_path: Path, tmp_path: Path, out: str, parts: list[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    result = edit(image_path, "-o", tmp_path / out, "--model", tmp_path / "nowhere")
    assert_refused(result, *parts)


def test_transparency_and_jpeg(edit: Run, picture: Image.Image, mask_path: Path, tmp_path: Path) -> None:
    picture.putalpha(100)
    image_path = saved(picture, tmp_path / "rgba.png")
    out = tmp_path / "out.jpg"
    assert_refused(edit(image_path, "--mask", mask_path, "-o", out), "out: ", "transparency")


def test_missing_model(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--model", tmp_path / "gone")
    assert_refused(result, "model: ", "gone is not a folder")


@pytest.mark.parametrize(
    ("part", "content", "parts"),
    [
        ("model_index.json", b"{", ["model_index.json"]),
        ("model_index.json", b"{}", ["names no vae"]),
        ("instgenie.json", b'{"name": "x", "steps": "many"}', ["steps is 'many'"]),
        ("instgenie.json", b'{"name": "x", "stepz": 3}', ["stepz"]),
        ("transformer/config.json", b"junk", ["transformer"]),
        ("transformer/diffusion_pytorch_model.safetensors", b"junk", ["transformer"]),
        ("vae/diffusion_pytorch_model.safetensors", None, ["vae"]),
        ("text_encoder/model.safetensors", b"junk", ["text_encoder"]),
        ("tokenizer/tokenizer.json", b"{}", ["tokenizer"]),
    ],
)
def test_broken_model(
    edit: Run,
    image_path: Path,
    mask_path: Path,
    tiny_builtin: Path,
    tmp_path: Path,
    part: str,
    content: bytes | None,
    parts: list[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_builtin, folder)
    (folder / part).unlink() if content is None else (folder / part).write_bytes(content)
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--model", folder)
    assert_refused(result, "model: ", *parts)
