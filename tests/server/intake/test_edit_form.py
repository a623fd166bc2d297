from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instgenie import fidelity, flow, parameter_checks, picture, step_cache
from instgenie.orders import EditOrder, Output, Pixels
from instgenie.replica.order_request import to_request
from instgenie_server.api_error import ApiError
from instgenie_server.intake import (
    EditForm,
    JobForm,
    edit_form,
    field_values,
    from_params,
    read_edit_form,
    to_orders,
    to_params,
)

PIXELS = Pixels(20, 16, "RGB", bytes(20 * 16 * 3))
MASK = bytes(100) + bytes([1]) * 220


def read(**fields: str) -> EditForm:
    return read_edit_form({"prompt": "a cat", **fields}, ["instgenie-builtin"], EditForm)


def read_job(**fields: str) -> JobForm:
    return read_edit_form({"prompt": "a cat", **fields}, ["instgenie-builtin"], JobForm)


def refusal(read: Callable[..., EditForm], **fields: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    error = caught.value
    assert error.status == 400
    assert error.headers() == {"x-should-retry": "false"}
    assert error.message.startswith(f"{error.param}: ")
    assert not re.search(r"pydantic|https?:|input should|value error|type=", error.message, re.IGNORECASE)
    return error


def order(form: EditForm, seed: int = 5) -> EditOrder:
    (only,) = to_orders(form, "edit-1", PIXELS, MASK, seed, "ann")
    return only


def test_a_prompt_is_enough() -> None:
    form = read()
    assert order(form) == EditOrder(id="edit-1", picture=PIXELS, mask=MASK, prompt="a cat", seed=5, namespace="ann")
    assert (form.n, form.stream, form.response_format, form.mask_mode, form.priority) == (
        1,
        False,
        "b64_json",
        "auto",
        0,
    )
    assert (form.seed, form.deadline_ms) == (None, None)


def test_every_field_reaches_the_order() -> None:
    form = read(
        prompt="ein Kürbis", size="640x480", output_format="webp", output_compression="70", partial_images="2",
        seed="9", steps="12", guidance="3.5", strength=".5", halo="2", refreshes="4", step_cache="3", feather="7",
        template_prompt="a room", template_seed="3", cache="only", crop="false", priority="-100",
    )  # fmt: skip
    assert order(form, 9) == EditOrder(
        id="edit-1", picture=PIXELS, mask=MASK, prompt="ein Kürbis", seed=9, steps=12, guidance=3.5, strength=0.5,
        halo=2, refreshes=4, step_cache=3, feather=7, template_prompt="a room", template_seed=3, cache="only",
        crop=False, previews=2, output=Output("webp", 70, (640, 480)), priority=-100, namespace="ann",
    )  # fmt: skip


def test_fields_beside_the_order_are_read() -> None:
    form = read(
        n="3", response_format="url", stream="true", model="instgenie-builtin", user="me", safety_identifier="x",
        quality="high", background="opaque", input_fidelity="low", mask_mode="luminance",
        deadline_ms="1",
    )  # fmt: skip
    assert (form.n, form.response_format, form.stream, form.mask_mode) == (3, "url", True, "luminance")
    assert form.deadline_ms == 1


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_booleans(text: str, value: bool) -> None:
    assert read(crop=text).crop is value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n", "0", "n: 0 is less than 1"),
        ("n", "11", "n: 11 is more than 10"),
        ("n", "two", "n: 'two' is not a whole number"),
        ("n", "1.5", "n: '1.5' is not a whole number"),
        ("n", "", "n: '' is not a whole number"),
        ("n", "１", "n: '１' is not a whole number"),
        ("n", "1_0", "n: '1_0' is not a whole number"),
        ("n", "9" * 300, "n: a huge number is more than 10"),
        ("n", "9" * 5000, f"n: {'9' * 60!r}... is not a whole number"),
        ("size", "big", "size: 'big' is neither auto nor a size in pixels such as 1024x768"),
        ("size", "1024X768", "size: '1024X768' is neither auto nor a size in pixels such as 1024x768"),
        ("size", "512x15", "size: 512x15 pixels: a side is shorter than 16"),
        ("size", "9000x9000", "size: 9000x9000 pixels are more than 64,000,000"),
        ("size", "1000x100", "size: 1000x100 pixels: longer than 8:1"),
        ("response_format", "hex", "response_format: 'hex' is not one of 'b64_json' or 'url'"),
        ("output_format", "gif", "output_format: 'gif' is not one of 'png', 'webp' or 'jpeg'"),
        ("output_compression", "101", "output_compression: 101 is more than 100"),
        ("stream", "yes", "stream: 'yes' is neither true nor false"),
        ("partial_images", "4", "partial_images: 4 is more than 3"),
        ("background", "transparent", "background: 'transparent' is not one of 'auto' or 'opaque'"),
        ("quality", "low", "quality: 'low' is not one of 'auto', 'standard' or 'high'"),
        ("input_fidelity", "auto", "input_fidelity: 'auto' is not one of 'low' or 'high'"),
        ("seed", "-1", "seed: -1 is less than 0"),
        ("seed", str(2**63), "seed: 9223372036854775808 is more than 9223372036854775807"),
        ("steps", "0", "steps: 0 is less than 1"),
        ("steps", "1001", "steps: 1001 is more than 1000"),
        ("guidance", "100.5", "guidance: 100.5 is more than 100"),
        ("guidance", "nan", "guidance: 'nan' is not a number"),
        ("guidance", "1e999", "guidance: inf is not a finite number"),
        ("strength", "0", "strength: 0 is not more than 0"),
        ("strength", "1.01", "strength: 1.01 is more than 1"),
        ("mask_mode", "white", "mask_mode: 'white' is not one of 'auto', 'alpha' or 'luminance'"),
        ("halo", "65", "halo: 65 is more than 64"),
        ("refreshes", "-1", "refreshes: -1 is less than 0"),
        ("refreshes", "1001", "refreshes: 1001 is more than 1000"),
        ("step_cache", "0", "step_cache: 0 is less than 1"),
        ("step_cache", "11", "step_cache: 11 is more than 10"),
        ("feather", "257", "feather: 257 is more than 256"),
        ("cache", "on", "cache: 'on' is not one of 'auto', 'only' or 'off'"),
        ("priority", "-101", "priority: -101 is less than -100"),
        ("deadline_ms", "0", "deadline_ms: 0 is less than 1"),
        ("user", "x" * 501, "user: 501 characters are more than 500"),
        ("prompt", "x" * 32_001, "prompt: 32001 characters are more than 32000"),
    ],
)  # fmt: skip
def test_errors_tell_the_value_and_the_limit(field: str, value: str, message: str) -> None:
    error = refusal(read, **{field: value})
    assert (error.param, error.message) == (field, message)


def test_a_prompt_is_needed() -> None:
    with pytest.raises(ApiError) as caught:
        read_edit_form({}, [], EditForm)
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_field")


@pytest.mark.parametrize(
    "name", ["promt", "negative_prompt", "Seed", "seed[]", "model_config", "__class__", "", "x" * 200]
)
def test_unknown_fields_are_refused(name: str) -> None:
    with pytest.raises(ApiError, match="is not a field of this request") as caught:
        read_edit_form({"prompt": "a cat", name: "1"}, [], EditForm)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unknown_field")


@pytest.mark.parametrize("name", ["lora", "lora[name]", "lora[0][scale]"])
def test_lora_is_not_supported_yet(name: str) -> None:
    error = refusal(read, **{name: "a"})
    assert (error.param, error.message) == ("lora", "lora: is not supported yet")


def test_another_model_is_not_served() -> None:
    error = refusal(read, model="gpt-image-1")
    assert (error.param, error.code) == ("model", "model_not_found")
    assert "'gpt-image-1'" in error.message
    assert "instgenie-builtin" in error.message
    assert read_edit_form({"prompt": "", "model": "alias"}, {"a", "alias"}, EditForm).model == "alias"


def test_an_asynchronous_edit_has_one_result_and_no_stream() -> None:
    form = read_job(n="1", stream="false", partial_images="3")
    assert (form.n, form.partial_images) == (1, 3)
    assert "one result, not 2" in refusal(read_job, n="2").message
    assert "events" in refusal(read_job, stream="true").message
    assert refusal(read_job, n="x").message == "n: 'x' is not a whole number"


@given(
    st.sampled_from(sorted(EditForm.model_fields)),
    st.text(max_size=20) | st.from_regex(r"-?[0-9.e+]{1,8}", fullmatch=True),
)
def test_any_text_is_a_value_or_an_error_that_names_the_field(field: str, text: str) -> None:
    try:
        form = read(**{field: text})
    except ApiError as error:
        named = (error.status, error.param)
    else:
        named = (400, field)
        for order in to_orders(form, "edit-1", PIXELS, MASK, 5, "ann"):
            to_request(order)  # what the form lets through, the engine takes
    assert named == (400, field)


def test_several_results_have_seeds_that_count_on() -> None:
    orders = to_orders(read(n="3"), "edit-1", PIXELS, MASK, 7, "ann")
    assert {o.namespace for o in orders} == {"ann"}
    assert [(o.id, o.seed) for o in orders] == [("edit-1-1", 7), ("edit-1-2", 8), ("edit-1-3", 9)]
    assert len({dataclasses.replace(o, id="", seed=0) for o in orders}) == 1
    assert [o.seed for o in to_orders(read(n="2"), "edit-1", PIXELS, MASK, edit_form.MAX_SEED, "ann")] == [
        edit_form.MAX_SEED,
        0,
    ]


def test_a_webp_has_a_limit_of_its_own() -> None:
    wide = Pixels(16_384, 2048, "RGB", b"")
    with pytest.raises(ApiError, match="16384x2048") as caught:
        to_orders(read(output_format="webp"), "edit-1", wide, b"", 1, "ann")
    assert (caught.value.status, caught.value.param) == (400, "output_format")
    to_orders(read(output_format="png"), "edit-1", wide, b"", 1, "ann")
    to_orders(read(output_format="webp", size="1024x128"), "edit-1", wide, b"", 1, "ann")
    with pytest.raises(ApiError):
        to_orders(read(output_format="webp", size="16384x2048"), "edit-1", PIXELS, MASK, 1, "ann")


def test_the_limit_of_a_webp_is_pillows() -> None:
    Image.new("L", (edit_form.MAX_WEBP_SIDE_PIXELS, 1)).save(io.BytesIO(), "WEBP")
    with pytest.raises(ValueError, match="encoding error"):
        Image.new("L", (edit_form.MAX_WEBP_SIDE_PIXELS + 1, 1)).save(io.BytesIO(), "WEBP")


forms = st.fixed_dictionaries(
    {"prompt": st.text(max_size=20)},
    optional={
        "n": st.integers(1, 10).map(str),
        "size": st.sampled_from(["auto", "64x64", "640x480"]),
        "output_format": st.sampled_from(["png", "webp", "jpeg"]),
        "output_compression": st.integers(0, 100).map(str),
        "partial_images": st.integers(0, 3).map(str),
        "steps": st.integers(1, 1000).map(str),
        "guidance": st.floats(0, 100).map(str),
        "strength": st.floats(0, 1, exclude_min=True).map(str),
        "halo": st.integers(0, 64).map(str),
        "refreshes": st.integers(0, 1000).map(str),
        "step_cache": st.integers(1, 10).map(str),
        "feather": st.integers(0, 256).map(str),
        "template_prompt": st.text(max_size=20),
        "template_seed": st.integers(0, 2**63 - 1).map(str),
        "cache": st.sampled_from(["auto", "only", "off"]),
        "crop": st.sampled_from(["true", "false"]),
        "deadline_ms": st.integers(1, 10_000).map(str),
        "model": st.just("instgenie-builtin"),
    },
)


@given(forms, st.integers(0, 2**63 - 1))
def test_a_stored_form_makes_the_same_orders(fields: dict[str, str], seed: int) -> None:
    form = read(**fields)
    restored = from_params(json.loads(json.dumps(to_params(form, seed, 20))))
    assert restored.seed == seed
    written_out = form.model_copy(update={"seed": seed, "refreshes": restored.refreshes})
    assert restored == written_out
    assert form.refreshes in (None, restored.refreshes)
    orders = to_orders(restored, "edit-1", PIXELS, MASK, seed, "ann")
    assert orders == to_orders(written_out, "edit-1", PIXELS, MASK, seed, "ann")


def test_stored_defaults_are_written_out() -> None:
    assert set(to_params(read(), 1, 20)) == set(EditForm.model_fields)


@pytest.mark.parametrize("change", [{"steps": 0}, {"steps": "many"}, {"prompt": None}, {"later": 1}, {"crop": []}])
def test_what_was_stored_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        from_params(to_params(read(), 1, 20) | change)
    assert (caught.value.status, caught.value.param) == (400, next(iter(change)))


def bounds(field: str) -> tuple[Any, Any]:
    """The limits that the JSON schema tells."""
    schema = EditForm.model_json_schema()["properties"][field]
    return schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("maxLength"))


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("prompt", None, parameter_checks.MAX_PROMPT_CHARS),
        ("template_prompt", None, parameter_checks.MAX_PROMPT_CHARS),
        ("seed", 0, parameter_checks.MAX_SEED),
        ("template_seed", 0, parameter_checks.MAX_SEED),
        ("steps", 1, flow.MAX_STEPS),
        ("guidance", 0, parameter_checks.MAX_GUIDANCE),
        ("strength", 0, 1),
        ("halo", 0, parameter_checks.MAX_HALO_TOKENS),
        ("refreshes", 0, fidelity.MAX_REFRESHES),
        ("step_cache", 1, step_cache.MAX_STEP_CACHE),
        ("feather", 0, parameter_checks.MAX_FEATHER_PIXELS),
    ],
)
def test_limits_are_the_engines(field: str, low: float | None, high: float) -> None:
    assert bounds(field) == (low, high)


def test_limits_of_sizes_are_those_of_uploads() -> None:
    ours = (field_values.MIN_SIDE_PIXELS, field_values.MAX_PIXELS, field_values.MAX_ASPECT)
    assert ours == (picture.MIN_SIDE_PIXELS, picture.MAX_PIXELS, picture.MAX_ASPECT)


def test_the_schema_tells_what_a_form_can_hold() -> None:
    for kind in (EditForm, JobForm):
        schema = kind.model_json_schema()
        assert schema["required"] == ["prompt"]
        assert schema["additionalProperties"] is False
        assert "null" not in json.dumps(schema)
        assert all({"ge", "le", "gt"}.isdisjoint(field) for field in schema["properties"].values())
    assert JobForm.model_json_schema()["properties"]["n"]["const"] == 1
    assert re.fullmatch(EditForm.model_json_schema()["properties"]["size"]["pattern"], "1024x768")
