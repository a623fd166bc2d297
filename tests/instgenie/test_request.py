"""Limits of a request: each error names the parameter, the value and the limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instgenie.errors import MaskError, ParameterError, PictureError
from instgenie.parameter_checks import MAX_PROMPT_CHARS, MAX_SEED
from instgenie.request import EditRequest, EditTimings

PICTURE = Image.new("RGB", (6, 4))
MASK = np.ones((4, 6), bool)


def request(**settings: Any) -> EditRequest:
    """A request, valid but for the settings."""
    values: dict[str, Any] = {"picture": PICTURE, "mask": MASK, "prompt": "an apple"}
    return EditRequest(**(values | settings))


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("steps", 0, "1..1000"),
        ("steps", 1001, "1..1000"),
        ("strength", 0.0, "0 < strength <= 1"),
        ("strength", 1.5, "0 < strength <= 1"),
        ("strength", math.nan, "0 < strength <= 1"),
        ("seed", -1, f"0..{MAX_SEED}"),
        ("seed", MAX_SEED + 1, f"0..{MAX_SEED}"),
        ("template_seed", -1, f"0..{MAX_SEED}"),
        ("halo", -1, "0..64"),
        ("halo", 65, "0..64"),
        ("feather", -1, "0..256"),
        ("feather", 257, "0..256"),
        ("guidance", -0.1, "0..100"),
        ("guidance", 101.0, "0..100"),
        ("guidance", math.nan, "0..100"),
        ("guidance", math.inf, "0..100"),
    ],
)
def test_value_outside_its_limits(name: str, value: float, limit: str) -> None:
    with pytest.raises(ParameterError) as caught:
        request(**{name: value})
    assert caught.value.parameter == name
    assert str(caught.value) == f"{name}: {value} is not in {limit}"


@pytest.mark.parametrize("name", ["prompt", "template_prompt"])
def test_prompt_too_long(name: str) -> None:
    request(**{name: MAX_PROMPT_CHARS * "x"})
    with pytest.raises(ParameterError, match=f"^{name}: 32001 characters are more than 32000"):
        request(**{name: (MAX_PROMPT_CHARS + 1) * "x"})


@pytest.mark.parametrize("name", ["prompt", "template_prompt"])
def test_half_a_surrogate_pair_is_no_text(name: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name}: character 3 is half of a surrogate pair"):
        request(**{name: "an \ud83d apple"})
    request(**{name: "an \U0001f34e"})


@pytest.mark.parametrize("name", ["steps", "seed", "template_seed", "halo", "feather"])
@pytest.mark.parametrize("value", [1.0, 2.5, True, "3"])
def test_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{name}: {value!r} is not a whole number$"):
        request(**{name: value})


@pytest.mark.parametrize("namespace", ["ann/bob", "../x", 65 * "x", "a b", "\ud83d", "x\n"])
def test_namespace_that_no_store_takes(namespace: str) -> None:
    with pytest.raises(ParameterError, match=r"^namespace: .* is not 1 to 64 letters, digits, dots, _ and -$"):
        request(namespace=namespace)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_picture_of_another_mode(mode: str) -> None:
    with pytest.raises(PictureError, match=f"^picture: mode '{mode}' is not one of RGB, RGBA$"):
        request(picture=Image.new(mode, (6, 4)))


def test_mask_of_another_size() -> None:
    with pytest.raises(MaskError, match=r"^mask: 4x6 pixels, the picture has 6x4$"):
        request(mask=MASK.T)


@pytest.mark.parametrize("mask", [MASK.astype(np.uint8), MASK[..., None], MASK[0]], ids=["uint8", "3-D", "1-D"])
def test_mask_of_another_kind(mask: object) -> None:
    with pytest.raises(MaskError, match=r"^mask: must be \[H, W\] of bool, got shape "):
        request(mask=mask)


def test_empty_mask() -> None:
    with pytest.raises(MaskError, match=r"^mask: is empty"):
        request(mask=np.zeros((4, 6), bool))


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 1, "strength": 1.0, "seed": 0, "halo": 0, "feather": 0, "guidance": 0.0, "template_seed": 0},
        {"steps": 1000, "strength": 1e-3, "seed": MAX_SEED, "halo": 64, "feather": 256, "guidance": 100.0},
        {"prompt": "", "steps": None, "guidance": None, "template_seed": MAX_SEED},
    ],
)
def test_values_at_their_limits(values: dict[str, Any]) -> None:
    made = request(**values)
    assert {name: getattr(made, name) for name in values} == values


def test_unknown_parameter() -> None:
    with pytest.raises(TypeError, match="hallo"):
        request(hallo=1)


def test_timings_are_not_shared() -> None:
    EditTimings().step_ms.append(1.0)
    assert EditTimings().step_ms == []
