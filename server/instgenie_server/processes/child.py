"""A module run as a child of the server: it ends when its standard input does.

    python -P -m instgenie_server.processes.child GRACE_SECONDS MODULE [OPTION ...]

The server holds the other end of that pipe, and the system closes it whichever way the server ends, kill -9 included.
So the child is never left behind, and still gets to end in order.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time


def end_with_input(grace_seconds: float) -> None:
    """Wait for the end of the standard input, then end this process, by force after so many seconds."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os._exit(1)


if __name__ == "__main__":
    name, grace, module, *options = sys.argv
    threading.Thread(target=end_with_input, args=(float(grace),), name="parent", daemon=True).start()
    sys.argv = [name, *options]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
