"""Encodings kept by content, within a byte budget."""

from __future__ import annotations

import pytest

from instgenie.content_cache import ContentCache


class Maker:
    """Makes byte strings and counts them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, cache: ContentCache[bytes], key: str, size: int = 10) -> bytes:
        def make() -> bytes:
            self.made.append(key)
            return key.encode() * size

        return cache.get_or_make(key, make)


def test_value_is_made_once() -> None:
    cache, get = ContentCache[bytes](100, len), Maker()
    assert get(cache, "a") is get(cache, "a")
    assert get.made == ["a"]
    assert (cache.hits, cache.misses) == (1, 1)


def test_least_recently_used_value_goes_first() -> None:
    cache, get = ContentCache[bytes](30, len), Maker()
    for key in "abcad":  # d drops b: a was used since
        get(cache, key)
    assert get.made == ["a", "b", "c", "d"]
    for key in "acd":
        get(cache, key)
    assert get.made == ["a", "b", "c", "d"]
    get(cache, "b")
    assert get.made == ["a", "b", "c", "d", "b"]
    assert (cache.hits, cache.misses) == (4, 5)


def test_budget_is_filled_to_the_last_byte() -> None:
    cache, get = ContentCache[bytes](30, len), Maker()
    get(cache, "a", 20)
    get(cache, "b", 10)
    get(cache, "a")
    get(cache, "b")
    assert get.made == ["a", "b"]
    get(cache, "c", 1)
    get(cache, "b")
    assert get.made == ["a", "b", "c"]


def test_value_larger_than_the_budget_is_made_and_not_kept() -> None:
    cache, get = ContentCache[bytes](30, len), Maker()
    assert len(get(cache, "a", 31)) == 31
    assert len(get(cache, "a", 31)) == 31
    assert get.made == ["a", "a"]
    get(cache, "b", 30)
    get(cache, "b", 30)
    assert get.made == ["a", "a", "b"]


def test_value_larger_than_the_budget_leaves_the_others() -> None:
    cache, get = ContentCache[bytes](30, len), Maker()
    for key, size in (("a", 10), ("b", 31), ("a", 10)):
        get(cache, key, size)
    assert get.made == ["a", "b"]


def test_failure_to_make_leaves_nothing() -> None:
    cache, get = ContentCache[bytes](30, len), Maker()

    def fail() -> bytes:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get_or_make("a", fail)
    assert get(cache, "a") == b"a" * 10
