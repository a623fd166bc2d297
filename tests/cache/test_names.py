"""Names of templates and what they are refused for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_cache.names import is_namespace, is_template_name, is_within, template_name

PARTS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


@given(PARTS, PARTS)
def test_namespace_and_key_make_a_name(namespace: str, key: str) -> None:
    name = template_name(namespace, key)
    assert name == f"{namespace}/{key}"
    assert is_namespace(namespace)
    assert is_template_name(name)
    assert is_template_name(template_name("", key))
    assert is_within(name, namespace)
    assert is_within(name, None)
    assert not is_within(key, namespace)


@given(PARTS, PARTS, PARTS)
def test_name_is_within_its_own_namespace_only(mine: str, other: str, key: str) -> None:
    assert is_within(template_name(other, key), mine) == (other == mine)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a/b/c", "a b", "a\n", "a\0", "ä", "a" * 65, "a/" + "b" * 65, "a" * 65 + "/b", "a\\b"]
)
def test_other_names_are_refused(name: str) -> None:
    assert not is_template_name(name)


@pytest.mark.parametrize("namespace", ["", "a/b", "a b", "a\n", "a" * 65])
def test_other_namespaces_are_refused(namespace: str) -> None:
    assert not is_namespace(namespace)


def test_namespace_that_begins_alike_is_another() -> None:
    assert not is_within("tenant-2/key", "tenant")
    assert is_within("tenant/key", "tenant")
