"""Errors over the wire: the same kind arrives, or the nearest that there is."""

from __future__ import annotations

from typing import Any

import pytest

from instgenie_cache.errors import CacheError, ServiceError
from instgenie_cache.wire.error_frames import error_fields, read_error
from instgenie_cache.wire.messages import ERROR_KINDS


@pytest.mark.parametrize("kind", ERROR_KINDS.values())
def test_kind_and_message_arrive(kind: type[CacheError]) -> None:
    header = error_fields(7, kind("what happened"))
    found = read_error(header)
    assert header["id"] == 7
    assert type(found) is kind
    assert str(found) == "what happened"


def test_kind_that_has_no_name_becomes_its_base() -> None:
    assert type(read_error(error_fields(1, ServiceError("gone")))) is CacheError


def test_long_messages_are_cut() -> None:
    assert len(str(read_error(error_fields(1, CacheError("x" * 10_000))))) == 1000


@pytest.mark.parametrize("header", [{"error": "new kind"}, {"error": 7, "message": []}, {"error": None}])
def test_error_that_is_not_understood_is_one_still(header: dict[str, Any]) -> None:
    assert type(read_error(header)) is CacheError


def test_other_replies_are_no_errors() -> None:
    assert read_error({"message": "fine"}) is None
