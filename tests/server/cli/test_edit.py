"""`instgenie edit` on a tiny model: what is written, and what stays as it was."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from instgenie.request import EditRequest
from instgenie.tracing import NO_TRACE, current_tracer
from instgenie_server.cli.edit import edit as edit_command
from tests.server.cli.conftest import Run, saved


def pixels(picture: Path | Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, C] of a picture or a file."""
    if isinstance(picture, Path):
        with Image.open(picture) as opened:
            return np.asarray(opened)
    return np.asarray(picture)


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_luminance_mask(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"out{extension}"
    result = edit(image_path, "--mask", mask_path, "-o", out)
    assert result.exit_code == 0, result.output
    before, after, edited = pixels(image_path), pixels(out), pixels(mask_path) > 0
    assert after.shape == before.shape
    assert np.array_equal(after[~edited], before[~edited])
    assert not np.array_equal(after[edited], before[edited])


def test_jpeg_is_written_close_to_the_picture(edit: Run, mask_path: Path, tmp_path: Path) -> None:
    grey = saved(Image.new("RGB", (130, 90), "grey"), tmp_path / "grey.png")
    out = tmp_path / "out.JPG"
    assert edit(grey, "--mask", mask_path, "-o", out).exit_code == 0
    with Image.open(out) as opened:
        assert opened.format == "JPEG"
    outside = np.ones((90, 130), bool)
    outside[24:56, 32:80] = False  # JPEG blends blocks of 8x8 pixels
    assert np.abs(pixels(out)[outside].astype(int) - 128).max() <= 2


def test_alpha_mask(edit: Run, image_path: Path, mask: Image.Image, tmp_path: Path) -> None:
    transparent_where_edited = Image.merge("LA", (mask.point(lambda _: 0), mask.point(lambda value: 255 - value)))
    mask_path = saved(transparent_where_edited, tmp_path / "alpha.png")
    out = tmp_path / "out.png"
    result = edit(image_path, "--mask", mask_path, "--mask-mode", "alpha", "-o", out)
    assert result.exit_code == 0, result.output
    changed = (pixels(out) != pixels(image_path)).any(-1)
    assert changed.any()
    assert not changed[pixels(mask) == 0].any()


def test_transparent_part_of_the_picture_is_the_mask(
    edit: Run, picture: Image.Image, mask: Image.Image, tmp_path: Path
) -> None:
    picture.putalpha(mask.point(lambda value: 255 - value))
    image_path = saved(picture, tmp_path / "rgba.png")
    out = tmp_path / "out.png"
    result = edit(image_path, "-o", out)
    assert result.exit_code == 0, result.output
    before, after, edited = pixels(picture), pixels(out), pixels(mask) > 0
    assert after.shape == before.shape
    assert np.array_equal(after[~edited], before[~edited])
    assert (after[edited][:, 3] == 255).all()


def test_seed_decides_the_pixels(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("one.png", "again.png", "other.png")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert edit(image_path, "--mask", mask_path, "--seed", str(seed), "-o", out).exit_code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert not np.array_equal(pixels(outs[0]), pixels(outs[2]))


def test_file_is_replaced_and_nothing_else_is_left(
    edit: Run, image_path: Path, mask_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    out.write_text("old")
    result = edit(image_path, "--mask", mask_path, "-o", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"image.png", "mask.png", "out.png"}
    assert pixels(out).shape == (90, 130, 3)
    assert result.stdout == ""
    assert result.stderr.startswith(f"wrote {out} in ")
    assert result.stderr.count("\n") == 1


def test_colour_profile_is_kept(edit: Run, picture: Image.Image, mask_path: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image_path, out = tmp_path / "profiled.png", tmp_path / "out.png"
    picture.save(image_path, icc_profile=profile)
    assert edit(image_path, "--mask", mask_path, "-o", out).exit_code == 0
    with Image.open(out) as opened:
        assert opened.info["icc_profile"] == profile


def test_flux_fill_folder(run: Run, tiny_flux_fill: Path, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = run(
        *("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", out),
        *("--model", tiny_flux_fill, "--dtype", "bfloat16", "--steps", "2"),
    )
    assert result.exit_code == 0, result.output
    edited = pixels(mask_path) > 0
    assert np.array_equal(pixels(out)[~edited], pixels(image_path)[~edited])


def test_trace(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--cache", "on", "--trace", trace)
    assert result.exit_code == 0, result.output
    events = {event["name"]: event for event in json.loads(trace.read_text())}
    assert events["process_name"]["args"] == {"name": "instgenie edit"}
    assert events["edit"]["args"] == {"cached": True, "cache": "cold", "steps": 4}
    loaded, edited, written = (events[name] for name in ("load model", "edit", "write picture"))
    assert loaded["ts"] + loaded["dur"] <= edited["ts"] < edited["ts"] + edited["dur"] <= written["ts"]
    assert current_tracer() is NO_TRACE


def test_trace_of_an_edit_that_fails(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--model", tmp_path, "--trace", trace)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    events = {event["name"]: event for event in json.loads(trace.read_text())}
    assert events["load model"]["args"] == {"error": "CheckpointError"}


def test_trace_that_cannot_be_written(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = edit(image_path, "--mask", mask_path, "-o", out, "--trace", tmp_path / "none" / "trace.json")
    assert result.exit_code == 2
    assert "trace: " in result.stderr
    assert "cannot be written" in result.stderr
    assert not out.exists()


def test_trace_is_of_edits_in_this_process(run: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    options = ("--prompt", "x", "-o", tmp_path / "out.png", "--trace", tmp_path / "trace.json")
    result = run("edit", image_path, "--mask", mask_path, *options, "--server", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "trace: is for edits in this process" in result.stderr
    assert not (tmp_path / "trace.json").exists()


def test_defaults_are_those_of_the_request() -> None:
    options = inspect.signature(edit_command).parameters
    shared = [field for field in dataclasses.fields(EditRequest) if field.name in options]
    defaults = {field.name: field.default for field in shared if field.default is not dataclasses.MISSING}
    assert {"seed", "steps", "guidance", "strength", "halo", "feather", "template_seed", "template_prompt"} <= set(
        defaults
    )
    assert {name: options[name].default for name in defaults} == defaults
