"""A bound in place of halo and refreshes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from instgenie.fidelity import MeasuredSetting
from instgenie.orders import ModelCard
from instgenie_server.api_error import ApiError
from instgenie_server.intake import EditForm, from_params, read_edit_form, settled, to_params

CARD = ModelCard(
    name="test",
    revision="r",
    dtype="float32",
    device="cpu",
    steps=20,
    guidance=3.0,
    distilled=False,
    canvas_pixels=64,
    patch=8,
    measured=(
        MeasuredSetting(0, 0, 20, 26.0, 0.2),
        MeasuredSetting(1, 1, 20, 38.0, 0.35),
        MeasuredSetting(2, 4, 20, 47.0, 0.5),
    ),
)


def chosen(fields: Mapping[str, str], card: ModelCard = CARD) -> EditForm:
    """What a form becomes on a model."""
    names = {name.replace("__", "[") + ("]" if "__" in name else ""): value for name, value in fields.items()}
    return settled(read_edit_form({"prompt": "a cat", **names}, [card.name], EditForm), card)


@pytest.mark.parametrize(
    ("fields", "halo", "refreshes"),
    [
        ({"fidelity": '{"mode": "auto", "psnr_db": 25}'}, 0, 0),
        ({"fidelity": '{"mode": "auto", "psnr_db": 26.1}'}, 1, 1),
        ({"fidelity": '{"psnr_db": 35}'}, 1, 1),
        ({"fidelity": "auto"}, 1, 1),
        ({"fidelity": "auto:40"}, 2, 4),
        ({"fidelity": "auto:26.0"}, 0, 0),
        ({"fidelity__mode": "auto", "fidelity__psnr_db": "40"}, 2, 4),
        ({"fidelity__psnr_db": "40", "steps": "5"}, 2, 1),
        ({"fidelity__psnr_db": "40", "steps": "50"}, 2, 10),
        ({"fidelity__psnr_db": "40", "steps": "50", "strength": "0.2"}, 2, 2),
    ],
)
def test_cheapest_setting_that_holds_the_bound(fields: dict[str, str], halo: int, refreshes: int) -> None:
    form = chosen(fields)
    assert (form.halo, form.refreshes, form.cache) == (halo, refreshes, "auto")


@pytest.mark.parametrize("fields", [{"fidelity": "exact"}, {"fidelity__mode": "exact"}, {"fidelity__psnr_db": "48"}])
def test_what_no_setting_holds_computes_all_tokens(fields: dict[str, str]) -> None:
    assert chosen(fields).cache == "off"


def test_model_that_nobody_measured_computes_all_tokens() -> None:
    assert chosen({"fidelity": "auto"}, replace(CARD, measured=())).cache == "off"


@pytest.mark.parametrize(("steps", "expected"), [(None, 2), ("20", 2), ("30", 2), ("19", 1)])
def test_a_step_cache_is_for_as_many_steps_as_it_was_measured_with(steps: str | None, expected: int) -> None:
    card = replace(CARD, measured=(*CARD.measured, MeasuredSetting(1, 2, 20, 40.0, 0.3, 2)))
    form = chosen({"fidelity__psnr_db": "39"} | ({} if steps is None else {"steps": steps}), card)
    assert (form.halo, form.step_cache) == (1, expected)


def test_without_it_nothing_changes() -> None:
    form = chosen({})
    assert (form.halo, form.refreshes, form.cache) == (1, None, "auto")
    form = chosen({"halo": "3", "refreshes": "2"})
    assert (form.halo, form.refreshes) == (3, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fidelity": "best"}, "fidelity[mode]: 'best' is not one of 'auto' or 'exact'"),
        ({"fidelity": '{"mode": "auto"'}, 'fidelity: \'{"mode": "auto"\' is not JSON'),
        ({"fidelity": '{"psnr_db": 9.9}'}, "fidelity[psnr_db]: 9.9 is less than 10"),
        ({"fidelity": "auto:101"}, "fidelity[psnr_db]: 101 is more than 100"),
        ({"fidelity": "auto:"}, "fidelity[psnr_db]: '' is not a number"),
        ({"fidelity": "auto:much"}, "fidelity[psnr_db]: 'much' is not a number"),
        ({"fidelity__psnr_db": "101"}, "fidelity[psnr_db]: 101 is more than 100"),
        ({"fidelity__ssim": "1"}, "fidelity[ssim]: is not a field of this request"),
        ({"fidelity": "auto", "fidelity__psnr_db": "40"}, "fidelity: is there twice, once as fidelity[...]"),
        ({"fidelity": "auto", "halo": "1"}, "fidelity: chooses halo, which is to be left out then"),
        ({"fidelity": "exact", "refreshes": "1"}, "fidelity: chooses refreshes, which is to be left out then"),
        ({"fidelity": "exact", "cache": "only"}, "fidelity: exact computes all tokens, which cache=only forbids"),
        (
            {"fidelity__psnr_db": "60", "cache": "only"},
            (
                "fidelity: 60 dB, which no measured setting of the model held, computes all tokens, which cache=only "
                "forbids"
            ),
        ),
    ],
)
def test_errors_name_the_value(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        chosen(fields)
    assert (caught.value.status, caught.value.param, caught.value.message) == (400, "fidelity", message)


def test_what_was_chosen_is_kept_with_a_job() -> None:
    """An edit that was accepted before a model was measured anew must not change by it."""
    form = chosen({"fidelity__psnr_db": "40"})
    again = from_params(to_params(form, 7, CARD.steps))
    assert (again.halo, again.refreshes, again.cache, again.seed) == (2, 4, "auto", 7)
    assert from_params(to_params(chosen({"fidelity": "exact"}), 7, CARD.steps)).cache == "off"


def test_jobs_of_before_there_were_refreshes_have_none() -> None:
    params = to_params(chosen({}), 7, CARD.steps)
    del params["refreshes"]
    assert from_params(params).refreshes == 0


def test_jobs_that_left_refreshes_to_the_default_still_do() -> None:
    """They were stored without a number, once."""
    assert from_params(to_params(chosen({}), 7, CARD.steps) | {"refreshes": None}).refreshes is None


@pytest.mark.parametrize(
    ("fields", "refreshes"),
    [
        ({}, 1),
        ({"steps": "50"}, 3),
        ({"steps": "50", "strength": "0.1"}, 0),
        ({"refreshes": "7"}, 7),
        ({"refreshes": "0"}, 0),
    ],
)
def test_default_refreshes_are_written_out(fields: dict[str, str], refreshes: int) -> None:
    assert from_params(to_params(chosen(fields), 7, CARD.steps)).refreshes == refreshes


def test_what_is_echoed_is_never_long() -> None:
    with pytest.raises(ApiError) as caught:
        chosen({"fidelity": json.dumps({"k" * 100_000: 1})})
    assert caught.value.code == "unknown_field"
    assert caught.value.message.startswith("fidelity[kkk")
    assert len(caught.value.message) < 300
