from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instgenie_server.api_error import ApiError
from instgenie_server.intake import EditForm, Img2Img, Img2ImgForm, Uploads
from instgenie_server.intake.a1111 import decode_base64, parse_img2img
from tests.server.intake.conftest import LIMITS, IntakeServer

IMAGE = base64.b64encode(b"picture!").decode()
MASK = base64.b64encode(b"mask").decode()


def parse(**fields: Any) -> Img2Img:
    return parse_img2img(json.dumps({"init_images": [IMAGE]} | fields).encode(), 1000)


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    return caught.value


def test_an_image_is_enough() -> None:
    read = parse()
    assert read.uploads == Uploads(b"picture!")
    assert read.form == EditForm(prompt="", strength=0.75, feather=4)
    assert not read.invert_mask


def test_fields_have_their_counterparts() -> None:
    read = parse(
        mask=f"data:image/png;base64,{MASK}", prompt="a cat", steps=20, cfg_scale=7.5, seed=3, denoising_strength=1,
        mask_blur=2, inpainting_mask_invert=1, width=640, height=480, batch_size=2, n_iter=3,
    )  # fmt: skip
    assert read.uploads == Uploads(b"picture!", b"mask")
    assert read.invert_mask
    assert read.form == EditForm(
        prompt="a cat",
        n=6,
        size="640x480",
        seed=3,
        steps=20,
        guidance=7.5,
        strength=1,
        feather=2,
        mask_mode="luminance",
    )


def test_a_seed_of_minus_one_is_drawn() -> None:
    assert parse(seed=-1).form.seed is None
    assert parse(seed=0).form.seed == 0


def test_what_is_not_known_or_null_has_no_effect() -> None:
    plain = parse()
    assert parse(sampler_name="Euler a", alwayson_scripts={"x": [1]}, negative_prompt="ugly", resize_mode=1) == plain
    assert parse(mask=None, steps=None, seed=None, width=None, denoising_strength=None, mask_blur=None) == plain


def test_the_reply_repeats_the_request_without_its_pictures() -> None:
    parameters = parse(mask=MASK, steps=20, seed=5, other=1).parameters
    assert (parameters["steps"], parameters["seed"]) == (20, 5)
    assert set(parameters) == set(Img2ImgForm.model_fields) - {"init_images", "mask"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("init_images", [], "init_images: has 0 entries, less than 1"),
        ("init_images", [IMAGE, IMAGE], "init_images: has 2 entries, more than 1"),
        ("init_images", IMAGE, f"init_images: {IMAGE!r} is not a list"),
        ("init_images", [3], "init_images[0]: 3 is not text"),
        ("init_images", None, "init_images: is required"),
        ("mask", 3, "mask: 3 is not text"),
        ("steps", 0, "steps: 0 is less than 1"),
        ("steps", True, "steps: true is not a whole number"),
        ("steps", 2.5, "steps: 2.5 is not a whole number"),
        ("steps", {}, "steps: an object is not a whole number"),
        ("cfg_scale", 101, "cfg_scale: 101 is more than 100"),
        ("cfg_scale", float("nan"), "cfg_scale: nan is not a finite number"),
        ("seed", -2, "seed: -2 is less than -1"),
        ("denoising_strength", 0, "denoising_strength: 0 is not more than 0"),
        ("mask_blur", 300, "mask_blur: 300 is more than 256"),
        ("inpainting_mask_invert", 2, "inpainting_mask_invert: 2 is neither true nor false"),
        ("batch_size", 11, "batch_size: 11 is more than 10"),
        ("prompt", ["a"], "prompt: a list is not text"),
    ],
)
def test_errors_tell_the_value_and_the_limit(field: str, value: Any, message: str) -> None:
    error = refusal(**{field: value})
    assert (error.status, error.param, error.message) == (400, field, message)


def test_sizes_and_numbers_of_results_go_together() -> None:
    assert refusal(width=512).param == "height"
    assert refusal(height=512).param == "width"
    assert "512x8 pixels: a side is shorter than 16" in refusal(width=512, height=8).message
    assert refusal(batch_size=6, n_iter=2).message == "n_iter: times batch_size is 12, more than 10"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"prompt": "\\ud800"}', b"[" * 100_000])
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body is not") as caught:
        parse_img2img(body, 1000)
    assert (caught.value.status, caught.value.param) == (400, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(IMAGE),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # busy machines
@given(st.dictionaries(st.sampled_from([*Img2ImgForm.model_fields, "other"]), json_values))
def test_any_values_are_an_edit_or_an_error_that_names_a_field(fields: dict[str, Any]) -> None:
    try:
        read = parse(**fields)
    except ApiError as error:
        outcome = error.status, error.param in Img2ImgForm.model_fields
    else:
        outcome = 400, 1 <= read.form.n <= 10
    assert outcome == (400, True)


@pytest.mark.parametrize(
    "text",
    [IMAGE, f"data:image/png;base64,{IMAGE}", f"DATA:;BASE64,{IMAGE}", f"{IMAGE[:5]}\r\n{IMAGE[5:]}\n", f" {IMAGE}"],
)
def test_base64_is_decoded(text: str) -> None:
    assert decode_base64(text, "mask", 8) == b"picture!"


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "QUJ",
        "QU*D",
        "é",
        "http://example.org/a.png",
        "file:///etc/passwd",
        f"data:image/png,{IMAGE}",
        "data:",
    ],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode_base64(text, "init_images", 1000)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "init_images", "not_base64")


@given(st.binary(max_size=40), st.integers(0, 40))
def test_pictures_have_the_limit_of_files(data: bytes, limit: int) -> None:
    text = base64.b64encode(data).decode()
    if len(data) <= limit:
        assert decode_base64(text, "mask", limit) == data
    else:
        with pytest.raises(ApiError, match=f"mask: larger than {limit} bytes") as caught:
            decode_base64(text, "mask", limit)
        assert caught.value.status == 413


async def test_requests_are_read_within_the_limits_of_bodies(intake: IntakeServer) -> None:
    body = json.dumps({"init_images": [IMAGE], "n_iter": 2}).encode()
    assert (await intake.post(body, "application/json", path="/img2img")).json == {"n": 2, "image": 8}
    padded = body + b" " * LIMITS.request_bytes
    assert (await intake.post(padded, "application/json", path="/img2img")).status == 413


async def test_large_requests_are_read_too(intake: IntakeServer) -> None:
    intake.limits = LIMITS.model_copy(update={"part_bytes": 3_000_000, "request_bytes": 5_000_000})
    picture = base64.b64encode(bytes(2_000_000)).decode()
    body = json.dumps({"init_images": [picture]}).encode()
    assert (await intake.post(body, "application/json", path="/img2img")).json["image"] == 2_000_000
