"""Many pass the gate at once, or one alone."""

from __future__ import annotations

import threading

from instgenie_cache.tiers.gate import Gate


def test_several_are_inside_together() -> None:
    gate, together = Gate(), threading.Barrier(3)

    def enter() -> None:
        with gate.shared():
            together.wait(timeout=10)  # breaks unless all three are inside

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    enter()
    for thread in threads:
        thread.join()
    assert not together.broken


def test_who_is_alone_sees_nobody() -> None:
    gate, books = Gate(), threading.Lock()
    inside, alone, seen = 0, 0, []

    def share() -> None:
        nonlocal inside
        for _ in range(300):
            with gate.shared():
                with books:
                    inside += 1
                seen.append(alone)
                with books:
                    inside -= 1

    def be_alone() -> None:
        nonlocal alone
        for _ in range(100):
            with gate.alone():
                alone += 1
                seen.append(inside)
                seen.append(alone - 1)
                alone -= 1

    threads = [threading.Thread(target=work) for work in (share, share, share, be_alone, be_alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3 * 300 + 2 * 100 * 2
    assert not any(seen)


def test_an_error_inside_lets_the_next_one_in() -> None:
    gate = Gate()
    for enter in (gate.shared, gate.alone):
        try:
            with enter():
                raise KeyError
        except KeyError:
            pass
    with gate.alone():
        pass
