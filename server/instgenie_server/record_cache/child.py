"""The cache service as a child of the server: `python -m instgenie_cache` that ends when its standard input does.

The server holds the other end of that pipe, and the system closes it whichever way the server ends, kill -9 included.
So the service is never left behind, and still gets to flush its records.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 60.0  # to flush in


def end_with_input() -> None:
    """Wait for the end of the standard input, then end this process, by force if need be."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, name="parent", daemon=True).start()
    sys.argv = [sys.argv[0]]
    runpy.run_module("instgenie_cache", run_name="__main__", alter_sys=True)
