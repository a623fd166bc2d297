"""What changes a key and what does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache import content_digest, template_key

Setting = str | int | float | bool | None

SETTINGS: dict[str, Setting] = {
    "model": "m",
    "revision": "r1",
    "dtype": "float32",
    "rows": 8,
    "columns": 8,
    "steps": 20,
    "seed": 0,
    "prompt": "",
    "guidance": None,
    "codec": "raw",
}


def test_key_is_the_same_for_the_same_content() -> None:
    key = template_key(b"pixels", SETTINGS)
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert template_key(memoryview(b"pixels"), dict(SETTINGS)) == key


def test_key_of_known_content_stays_what_it_was() -> None:
    assert content_digest(b"pixels") == "ef6172839cec55b6574314402cc3e9f9"
    assert template_key(b"pixels", {"model": "m", "steps": 20}) == "903f711b588c62a14c7dacfa8ce94d9b"


def test_order_of_settings_does_not_matter() -> None:
    turned = dict(reversed(SETTINGS.items()))
    assert list(turned) != list(SETTINGS)
    assert template_key(b"pixels", turned) == template_key(b"pixels", SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_changes_the_key(name: str) -> None:
    key = template_key(b"pixels", SETTINGS)
    assert template_key(b"pixels", SETTINGS | {name: "other"}) != key
    assert template_key(b"pixels", {n: v for n, v in SETTINGS.items() if n != name}) != key
    assert template_key(b"pixels", {(f"{n}x" if n == name else n): v for n, v in SETTINGS.items()}) != key


def test_pixels_change_the_key() -> None:
    assert template_key(b"pixels", SETTINGS) != template_key(b"pixelt", SETTINGS)


def test_types_of_values_matter() -> None:
    values: list[Setting] = [1, 1.0, True, "1", None, "", 0, False]
    assert len({template_key(b"", {"value": value}) for value in values}) == len(values)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_digest_tells_lists_of_parts_apart(first: list[bytes], second: list[bytes]) -> None:
    assert (content_digest(*first) == content_digest(*second)) == (first == second)


def test_moving_a_boundary_changes_the_digest() -> None:
    assert content_digest(b"ab", b"c") != content_digest(b"a", b"bc")
    assert content_digest(b"abc") != content_digest(b"abc", b"")
