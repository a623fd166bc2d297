"""Shares of namespaces in what is announced."""

from __future__ import annotations

import pytest

from instgenie_cache import StoreFullError
from instgenie_cache.service.announced_bytes import AnnouncedBytes


def test_each_namespace_has_a_share_of_its_own() -> None:
    announced = AnnouncedBytes(10)
    announced.take("a", 4)
    announced.take("a", 6)
    announced.take("b", 10)
    with pytest.raises(StoreFullError, match="namespace 'a' may have 10 bytes announced at a time, 10 are, and 1 are"):
        announced.take("a", 1)
    announced.give("a", 4)
    announced.take("a", 3)


def test_who_sees_all_namespaces_is_not_limited() -> None:
    announced = AnnouncedBytes(10)
    announced.take(None, 1000)
    announced.take("a", 10)  # whose share is its own
    with pytest.raises(StoreFullError):
        announced.take("a", 1)
    announced.give(None, 1000)
    with pytest.raises(StoreFullError):
        announced.take("a", 1)
