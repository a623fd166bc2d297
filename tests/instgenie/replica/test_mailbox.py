"""What other threads want of a runner."""

from __future__ import annotations

import threading

from instgenie.replica.mailbox import Mailbox


def test_messages_come_in_order_and_once() -> None:
    box, told = Mailbox(), list[int]()
    for number in range(3):
        assert box.post(lambda number=number: told.append(number))  # type: ignore[misc]
    for message in box.take():
        message()
    assert told == [0, 1, 2]
    assert not box.take()


def test_waiting_ends_with_a_message_the_end_or_the_time() -> None:
    box = Mailbox()
    box.wait(0.0)
    for act in (lambda: box.post(lambda: None), box.close):
        waiting = threading.Thread(target=lambda: box.wait(None))
        waiting.start()
        act()
        waiting.join(10)
        assert not waiting.is_alive()
        box.take()


def test_closed_box_takes_nothing() -> None:
    box = Mailbox()
    box.close()
    assert box.is_closed
    assert not box.post(lambda: None)
    assert not box.take()
