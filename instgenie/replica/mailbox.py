"""What other threads want of a runner's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Message = Callable[[], None]


class Mailbox:
    """Messages of any thread to one that reads them between two steps."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._arrived = threading.Condition()
        self._is_closed = False

    def post(self, message: Message) -> bool:
        """Have the reader call it; False, where nobody reads any more."""
        with self._arrived:
            if self._is_closed:
                return False
            self._messages.append(message)
            self._arrived.notify_all()
            return True

    def take(self) -> list[Message]:
        """All that came, in its order."""
        with self._arrived:
            taken = list(self._messages)
            self._messages.clear()
            return taken

    def wait(self, seconds: float | None) -> None:
        """Until there is a message, or the box is closed, or so much time has passed."""
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._messages) or self._is_closed, seconds)

    def close(self) -> None:
        """Take no more messages."""
        with self._arrived:
            self._is_closed = True
            self._arrived.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed
