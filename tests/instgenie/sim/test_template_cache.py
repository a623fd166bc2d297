"""A tier's budget, and what stays in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie.sim.template_cache import TemplateCache


def test_what_goes_first_makes_room() -> None:
    gone: list[str] = []
    cache = TemplateCache(20, "lru", gone.append)
    assert all(cache.insert(name, 10, 1.0) for name in "abc")
    assert gone == ["a"]
    assert cache.used_bytes == 20
    assert ("a" in cache, "b" in cache, len(cache), cache.evicted) == (False, True, 2, 1)


def test_use_keeps_a_template_and_counts() -> None:
    cache = TemplateCache(20, "lru")
    for name in "ab":
        cache.insert(name, 10, 1.0)
    cache.use("a")
    cache.use("b")
    assert not cache.insert("c", 10, 1.0)
    assert cache.used_bytes == 20
    cache.leave("b")
    assert cache.insert("c", 10, 1.0)
    assert ("a" in cache, "b" in cache) == (True, False)


def test_too_large_a_template_puts_nothing_out() -> None:
    cache = TemplateCache(20)
    cache.insert("a", 10, 1.0)
    assert not cache.insert("b", 21, 1.0)
    assert "a" in cache


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(("insert", "use", "leave"))), max_size=60),
    st.sampled_from(("lru", "lfu", "gdsf")),
)
def test_budget_is_kept_and_what_is_used_stays(acts: list[tuple[str, str]], policy: str) -> None:
    cache = TemplateCache(100, policy)  # type: ignore[arg-type]
    sizes = {name: 15 * number for number, name in enumerate("abcdef", 1)}
    used: list[str] = []
    for name, act in acts:
        if act == "insert":
            cache.insert(name, sizes[name], 1.0)
        elif act == "use" and name in cache:
            cache.use(name)
            used.append(name)
        elif act == "leave" and name in used:
            cache.leave(name)
            used.remove(name)
        assert cache.used_bytes == sum(sizes[name] for name in sizes if name in cache) <= 100
        assert all(name in cache for name in used)
